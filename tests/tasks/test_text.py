"""tasks.text: splits, prompts, what drift and rewards read, what `sft` learns."""

import json
import types

import datasets
import directories
import judging_labelers
import numpy as np
import pytest
import tiny_models
import tokenizers
import transformers

from rlhf_jax import huggingface, trees
from rlhf_jax.data import sources
from rlhf_jax.feedback import prompts
from rlhf_jax.models import decoder
from rlhf_jax.runtime.parallel import data
from rlhf_jax.studies import evaluators, scoring
from rlhf_jax.studies.interfaces import Run, Unit
from rlhf_jax.tasks import bigrams, classifiers, direct_feedback, judges, text
from rlhf_jax.types import Prompts

LETTERS = "abcdefg"
WORDS = ("<s>", "<pad>", "</s>", "<unk>", *LETTERS, "\n\n")
LAYOUT = data(1)
SIZES = {
    "prompt_length": 5,
    "max_new_tokens": 4,
    "min_new_tokens": 4,
    "prompts": 1000,
    "eval_prompts": 6,
    "heldout_rows": 6,
    "heldout_length": 8,
    "test_rows": 9,
    "window": 8,
    "stride": 4,
}


def reviews(rng, count):
    """Texts of 6 to 12 words with a label; no two alike."""
    found = {}
    while len(found) < count:
        words = rng.choice(list(LETTERS), rng.integers(6, 13))
        found[" ".join(words)] = int(rng.integers(2))
    return [{"text": text, "label": label} for text, label in found.items()]


def reviews_in(home):
    """A labelled data set: 40 rows to train on, 12 to test on, of which one is both."""
    home.mkdir(exist_ok=True)
    rows = reviews(np.random.default_rng(0), 51)
    splits = {"train": rows[:40], "test": [rows[3], *rows[40:]]}
    for name, part in splits.items():
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (home / f"{name}.jsonl").write_text(lines)
    return home


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return reviews_in(tmp_path_factory.mktemp("reviews"))


def word_tokenizer():
    """Words between blanks, and a token for an empty line."""
    model = tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, "<unk>")
    built = tokenizers.Tokenizer(model)
    split = tokenizers.pre_tokenizers.Split
    built.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [split("\n\n", "isolated"), split(" ", "removed")]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=built,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )


TOKENIZER = word_tokenizer()


def unpacked(case, home):
    """A golden model's directory with that tokenizer."""
    home.mkdir(exist_ok=True)
    directories.unpack(case, home)
    TOKENIZER.save_pretrained(home)
    return home


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return unpacked("gpt2", tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return unpacked("distilbert", tmp_path_factory.mktemp("distilbert"))


def nothing(*_, **__):
    return None


def score(prompts, completions, **columns):
    return [0.0] * len(prompts)


def create(folder, policy, reward=score, **changes):
    config = text.Config(**{**SIZES, **changes})
    return text.create(
        config, folder, str(policy), reward, layout=LAYOUT, cache=None, report=nothing
    )


def read(prompts):
    return TOKENIZER.batch_decode(
        [tokens[mask != 0] for tokens, mask in zip(*prompts, strict=True)]
    )


def of(folder, split):
    return sources.load(folder, split=split, columns=["text"])


# Splits.


def test_the_training_split_is_cut_as_datasets_shuffles(folder, policy):
    """RL4LMs: train shuffled with seed 0, the first 80% to train on."""
    config = text.Config(**SIZES, validation=0.2, keep_shared=True)
    train, held, test = text._splits(config, folder, str(policy))
    expected = of(folder, "train").shuffle(seed=0)
    assert train["text"][:] == expected["text"][:32]
    assert held["text"][:] == expected["text"][32:]
    assert test["text"][:] == of(folder, "test")["text"][:]
    assert isinstance(train, datasets.Dataset) and len(held) == 8


def test_shared_texts_are_dropped_unless_they_are_kept(folder, policy):
    shared = of(folder, "train")["text"][3]
    for keep in (False, True):
        config = text.Config(**SIZES, validation=0.2, keep_shared=keep)
        train, _, test = text._splits(config, folder, str(policy))
        assert (shared in test["text"][:]) == (keep or shared not in train["text"][:])
    plain = text._splits(text.Config(**SIZES), folder, str(policy))
    assert plain[2] is None and shared not in plain[1]["text"][:]


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"validation": 1.0}, "--text.validation 1.0: a share below 1"),
        ({"validation": 0.999}, "--text.validation 0.999: of 40 texts nothing is left"),
        ({"validation": 0.1}, "split 'train': 4 texts.*and 6 are needed"),
        ({"prompt_from": "end"}, "--text.prompt-from end: choose start or half"),
        (
            {"prompt_from": "start", "whole_prompt": True},
            "--text.whole-prompt.*add --text.prompt-from half",
        ),
        ({"drift": "joined", "window": 99}, "--text.window 99.*context holds 16"),
        (
            {"drift": "joined", "window": 16, "heldout_rows": 1},
            "--text.window 16: 1 held-out texts.*two windows.*--text.heldout-rows",
        ),
    ],
)
def test_what_cannot_be_is_named(folder, policy, changes, said):
    with pytest.raises(ValueError, match=said):
        create(folder, policy, **changes)


# Prompts and texts.


def test_prompts_are_the_end_of_the_first_half_in_words(folder, policy):
    task = create(folder, policy)
    rows = of(folder, "train")["text"][:]
    halves = [" ".join(row.split(" ")[: len(row.split(" ")) // 2]) for row in rows]
    assert read(task.prompts) == [" ".join(half.split()[-5:]) for half in halves]
    assert task.sampling.min_new_tokens == task.sampling.max_new_tokens == 4


def test_a_half_that_is_blank_is_a_half_of_what_is_not():
    config = text.Config()
    assert text._starts(config, ["a  b c", "   a b", "a"]) == ["a ", "a", "a"]


def test_supervised_text_is_of_the_class_that_pays_alone(folder, policy):
    task = create(folder, policy, validation=0.2)
    train = of(folder, "train").shuffle(seed=0).select(range(32))
    paid = {row["text"] for row in train if row["label"] == 1}
    width = task.best.tokens.shape[1]
    assert width == 9
    found = read((task.best.tokens, task.best.target_mask))
    found = {x.replace(" </s>", "") for x in found}
    assert found == {" ".join(row.split()[:width]) for row in paid}
    assert 0 < len(paid) < 32
    other = create(folder, policy, validation=0.2, label=0)
    assert other.best.tokens.shape[0] == 32 - len(paid)


def test_unlabelled_text_is_learned_from_whole(tmp_path, policy):
    for split in ("train", "test"):
        rows = [{"text": f"a b c {x} d e"} for x in LETTERS]
        if split == "test":
            rows = [{"text": row["text"] + " f"} for row in rows]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{split}.jsonl").write_text(lines)
    task = create(tmp_path, policy)
    assert task.best.tokens.shape[0] == 7 and task.groups is None


# Drift on joined texts.


@pytest.fixture(scope="module")
def joined(folder, policy):
    return create(folder, policy, validation=0.2, drift="joined", keep_shared=True)


def test_held_out_texts_are_one_text_with_blank_lines_between(folder, joined):
    held = of(folder, "train").shuffle(seed=0).select(range(32, 40))
    texts = classifiers.shuffled(held, 6)["text"][:]
    ids = TOKENIZER("\n\n".join(texts))["input_ids"]
    np.testing.assert_array_equal(joined.joined.tokens, ids)
    assert ids.count(WORDS.index("\n\n")) == 5 and 3 not in ids
    test = classifiers.shuffled(of(folder, "test"), 9)["text"][:]
    ids = TOKENIZER("\n\n".join(test))["input_ids"]
    np.testing.assert_array_equal(joined.test.joined.tokens, ids)


def nll_by_hand(model, params, tokens, window, stride):
    """HF's recipe: each window scores what none before it did."""
    total, count, done = 0.0, 0, 0
    for begin in range(0, len(tokens), stride):
        end = min(begin + window, len(tokens))
        part, mask = np.zeros((2, 1, window), np.int32)
        part[0, : end - begin], mask[0, : end - begin] = tokens[begin:end], 1
        logits = tiny_models.compiled(model)(params, part, mask)[0]
        logits = np.asarray(logits, np.float64)
        logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        for at in range(max(done, begin + 1), end):
            total -= logps[at - 1 - begin, tokens[at]]
            count += 1
        done = end
        if end == len(tokens):
            break
    return total / count


def test_drift_is_perplexity_in_windows(joined):
    """Of the texts alone; that both splits are reported, test_sentiment_paper runs."""
    run = Run("x", Unit(0, 0), LAYOUT)
    for task in (joined, joined.test):
        metrics, _ = evaluators.human_text(task)(task.params, run)
        expected = nll_by_hand(task.model, task.params, task.joined.tokens, 8, 4)
        assert metrics["drift/text_nll"] == pytest.approx(expected, rel=1e-5)
        assert metrics["drift/perplexity"] == pytest.approx(np.exp(expected), rel=1e-5)
        halves = metrics["drift/text_nll_a"], metrics["drift/text_nll_b"]
        assert min(halves) < metrics["drift/text_nll"] < max(halves)


# The reward.


def test_a_loaded_reward_may_read_the_whole_prompt(folder, policy, classifier):
    task = create(folder, policy, str(classifier), prompt_length=2, whole_prompt=True)
    reward = task.rewards["proxy"](0)
    starts = task.columns[classifiers.WHOLE_PROMPT]
    assert max(len(start.split()) for start in starts) > 2
    args = (read(task.prompts), [" g g"] * 40)
    found = reward.host(*args, **task.columns)
    plain = create(folder, policy, str(classifier), prompt_length=2)
    plain = plain.rewards["proxy"](0)
    assert classifiers.WHOLE_PROMPT not in plain.facts
    np.testing.assert_allclose(found, plain.host(starts, args[1]), atol=1e-6)
    assert np.abs(found - plain.host(*args)).max() > 1e-4
    assert len(task.eval_columns[classifiers.WHOLE_PROMPT]) == 6


def test_more_texts_than_are_read_at_once_score_as_alone(classifier, policy):
    task = types.SimpleNamespace(tokenizer=TOKENIZER)
    host = classifiers.loaded(classifier, task, None, raw=True).host
    prompts = [" ".join(LETTERS[: 1 + i % 7]) for i in range(150)]
    together = host(prompts, [""] * 150)
    assert len(together) == 150
    for i in (0, 63, 64, 149):
        np.testing.assert_allclose(together[i], host([prompts[i]], [""])[0], atol=1e-6)


# Trained here


def test_no_text_is_read_by_two_of_reward_judge_and_test(folder, tmp_path):
    config = text.Config(labelled=str(folder))
    mine, others, tests = classifiers._labelled(config, "unused")
    assert (len(mine), len(others), len(tests)) == (20, 20, 11)
    elsewhere = reviews_in(tmp_path / "elsewhere")
    more = [*reviews(np.random.default_rng(1), 30), mine[0], tests[0]]
    lines = "".join(json.dumps(row) + "\n" for row in more)
    (elsewhere / "train.jsonl").write_text(lines)
    config = text.Config(labelled=str(folder), judge_labelled=str(elsewhere))
    again, others, _ = classifiers._labelled(config, "unused")
    assert again["text"][:] == mine["text"][:] and len(others) == 30


def test_a_reward_of_few_texts_is_judged_by_bigrams_of_others(folder, policy):
    drawn = {
        "classifier_texts": 8,
        "classifier_steps": 2,
        "classifier_rows": 4,
        "classifier_length": 12,
        "judge": "bigrams",
    }
    task = create(folder, policy, "train", **drawn)
    one, two = (task.rewards["proxy"](seed).frozen[0] for seed in (0, 1))
    assert trees.norm(trees.subtract(one["head"], two["head"])) > 0
    rows = of(folder, "train")
    known = bigrams.fit(rows["text"][1::2], rows["label"][1::2])
    asked = Prompts(*(x[:3] for x in task.eval_prompts))
    rollout = types.SimpleNamespace(
        tokens=np.concatenate([asked.tokens, asked.tokens[:, -4:]], axis=1),
        mask=np.concatenate([asked.mask, asked.mask[:, -4:]], axis=1),
        response_mask=asked.mask[:, -4:],
    )
    whole = [a + b for a, b in zip(*scoring.decode(task, rollout), strict=True)]
    gold = task.truth(rollout)["eval/gold"]
    np.testing.assert_allclose(gold, bigrams.log_odds(known, whole))
    assert np.ptp(gold) > 0
    with pytest.raises(ValueError, match="classifier-texts 21: there are 20 labelled"):
        create(folder, policy, "train", **{**drawn, "classifier_texts": 21})


@pytest.mark.parametrize("raw", [False, True])
def test_a_reward_in_the_policys_tokens_is_scaled_unless_asked_raw(
    raw, folder, policy, tmp_path
):
    reward = str(unpacked("gpt2_reward", tmp_path))
    task = create(folder, policy, reward, raw_reward=raw)
    gain, bias = task.rewards["proxy"](0).frozen[1]
    assert (float(gain) == 1.0 and float(bias) == 0.0) == raw


@pytest.mark.parametrize("raw", [False, True])
def test_a_labelers_rating_is_scaled_unless_asked_raw(raw, folder, policy, monkeypatch):
    asked = []

    def one_to_ten(prompt):
        count = prompt.count(" a") + 2 * prompt.count(" b")
        return np.eye(10)[count % 10] * 0.9 + 0.01

    made = judging_labelers.labeler(one_to_ten, asked)
    template = prompts.load("helpful_rating")
    judge = judges.Judge(made, template, 0, None, None)
    monkeypatch.setattr(judges, "create", lambda *_, **__: judge)
    task = create(folder, policy, judges.Spec("m", scale=12), raw_reward=raw)
    assert task.facts["own units"] == raw and "a function" in task.facts["judge"]
    reward = task.rewards["proxy"](0)
    assert len(asked) == 12 * (not raw) and reward.score is None
    answers = read(task.prompts)[:5]
    found = np.array(reward.host(answers, answers))
    plain = direct_feedback.rated(judge)(answers, answers)
    if raw:
        np.testing.assert_array_equal(found, plain)
    else:
        p = np.array([one_to_ten(prompt) for prompt in asked[:12]])
        scores = (p @ np.arange(1, 11) / p.sum(1) - 5.5) / 4.5
        expected = (plain - scores.mean()) / scores.std()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_golden_policy_is_what_these_tests_take_it_for(policy):
    model, _, tokenizer = huggingface.load(policy)
    assert isinstance(model, decoder.Decoder) and model.config.max_length == 16
    assert isinstance(tokenizer, transformers.PreTrainedTokenizerBase)
