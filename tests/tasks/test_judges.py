"""Labelers by name: their words, what is refused, and how models and servers differ."""

import pytest
import small_recipes

from rlhf_jax.feedback import prompts
from rlhf_jax.tasks import judges

pytest.importorskip("transformers")
URL = "http://localhost:8000/v1"


def test_words_are_the_fields_of_a_spec():
    spec = judges.parse(
        f"ai:{URL},model=judge-7b,key_env=JUDGE,template=harmless_rating,shots=2,"
        "raw=true,scale=0,votes=4,timeout=1.5,prices=0.15:0.6,budget_tokens=1000"
    )
    assert spec == judges.Spec(
        URL,
        template="harmless_rating",
        shots=2,
        raw=True,
        scale=0,
        endpoint=judges.Endpoint("judge-7b", "JUDGE", votes=4),
        limits=judges.Limits(timeout=1.5, prices=(0.15, 0.6), budget_tokens=1000.0),
    )
    assert spec.remote and not judges.parse("ai:some/model").remote
    assert judges.parse("ai:policy") == judges.Spec("policy")
    assert judges.named("ai:x") and not judges.named("x:ai") and not judges.named(len)


def test_a_server_has_a_ledger_in_the_run_folder_by_default(tmp_path):
    def kept(words):
        return judges.of_reward(f"ai:{words}", tmp_path).ledger

    assert kept(f"{URL},model=m") == str(tmp_path / "ledger.sqlite")
    assert kept(f"{URL},model=m,ledger=own.sqlite") == "own.sqlite"
    assert kept("a/model") == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "whose judgment"),
        ("m,shots", "shots is not name=value"),
        ("m,size=3", "size is not name=value with a name of template, shots"),
        ("m,sk-secret=1", "a setting is not name=value"),
        ("m,shots=two", "shots=two must be a whole number"),
        ("m,raw=maybe", "raw=maybe must be true or false"),
        (f"{URL},model=m,prices=1", "prices=1 must be two numbers with a colon"),
        ("m,template=helpful_base", "helpful_base is of kind pair, and rating is"),
        ("m,shots=40", "40 shots, and the prompt helpful_rating has"),
        ("m,scale=-1", "scale=-1: must be a whole number of at least 0"),
        ("m,model=x", "go with a URL, and m is none"),
        (URL, "needs the server's name of the model"),
        (f"{URL},model=m,votes=0", "votes=0: must be a whole number of at least 1"),
        (f"{URL},model=m,budget_money=1", "budget_money=1.0 and prices=None"),
        ("https://me:pw@host/v1,model=m", "scheme, host and path alone"),
        (f"{URL}?key=secret,model=m", "scheme, host and path alone"),
        (f"{URL},model=m,key_env=sk-secret", "key_env names no environment variable"),
    ],
)
def test_words_that_cannot_be_are_one_line_without_secrets(words, said):
    with pytest.raises(ValueError) as refused:
        judges.of_reward(f"ai:{words}")
    text = str(refused.value)
    assert said in text and "\n" not in text and text.startswith("--reward ai:")
    assert "secret" not in text and "pw" not in text


def test_a_model_with_a_chat_template_is_asked_in_it(tmp_path):
    chat = small_recipes.tokenizer(tmp_path / "chat")
    template = prompts.load("helpful_rating")
    text = prompts.render(template, context="c", response="r")
    asked = judges.in_chat(template, chat)(text)
    assert asked.startswith("<|im_start|>user\n" + template.preamble[:20])
    assert asked.endswith("<|im_start|>assistant\nSCORE:")
    plain = small_recipes.tokenizer(tmp_path / "plain", template=False)
    assert judges.in_chat(template, plain) is None


def test_a_chat_endpoint_has_labels_without_a_blank(monkeypatch):
    pytest.importorskip("openai", reason="needs the extra [feedback]")
    import fake_endpoint

    with fake_endpoint.serving(completions=False) as server:
        words = f"ai:{server.url},model=m,retries=0,template=helpful_rating"
        judge = judges.create(judges.parse(words), "rating")
    assert judge.wrap is None and judge.shots == 0
    assert judge.template.labels == tuple(map(str, range(1, 11)))
    assert judge.template.ending == "SCORE:"
    said = judge.describe()
    assert said.startswith("m (chat") and "helpful_rating, version 1" in said
