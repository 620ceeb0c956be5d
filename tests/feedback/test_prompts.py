"""Prompts: the files of the package, files of one's own, and the texts made of them."""

import dataclasses
import fnmatch
import pathlib
import tomllib

import pytest

from rlhf_jax.data import bpe
from rlhf_jax.feedback import prompts

PAIR = {"context": "a {post}", "first": "one", "second": "two"}
RATED = {"context": "a {post}", "response": "one"}
OWN = """
name = "own"
version = 3
kind = "pair"
polarity = "better"
labels = ["A", "B"]
preamble = "Which?"
sample = '''
{{{context}}}
A: {first}
B: {second}'''
ending = "Answer:"
example_banner = "Seen:"
sample_banner = "New:"
rationale_request = "Think."
rationale_cue = "Thoughts:"

[[exemplars]]
context = "c"
first = "f"
second = "s"
better = "second"
rationale = "s is shorter"
"""
RATING = """
name = "own"
version = 1
kind = "rating"
polarity = "better"
labels = [" bad", " good"]
preamble = "How good?"
sample = "{context}: {response}"
ending = "Verdict:"

[[exemplars]]
context = "c"
response = "r"
label = " good"
"""
SHIPPED = [prompts.load(name) for name in prompts.names()]
PAIRS = [x for x in SHIPPED if x.kind == "pair"]


@pytest.fixture
def own(tmp_path):
    """Loads a template from the text of its file."""

    def loaded(text=OWN, *replaced):
        for old, new in replaced:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "own.toml"
        path.write_text(text)
        return prompts.load(path)

    return loaded


def values(template):
    return PAIR if template.kind == "pair" else RATED


# Texts.


def test_a_prompt_has_four_parts(own):
    assert prompts.render(own(), **PAIR) == (
        "Which?\n\n{a {post}}\nA: one\nB: two\n\nAnswer:"
    )
    assert prompts.render(own(), shots=1, **PAIR) == (
        "Which?\n\nSeen:\n\n{c}\nA: f\nB: s\n\nAnswer:B"
        "\n\nNew:\n\n{a {post}}\nA: one\nB: two\n\nAnswer:"
    )


def test_a_chain_of_thought_takes_two_calls(own):
    asked = prompts.ask_rationale(own(), **PAIR)
    assert asked == "Which?\n\n{a {post}}\nA: one\nB: two\n\nThink.\n\nThoughts:"
    answered = prompts.render(own(), rationale=" two is {longer}\n", **PAIR)
    assert answered == f"{asked} two is {{longer}}\n\nAnswer:"
    assert prompts.render(own(), rationale="\n", **PAIR) == f"{asked}\n\nAnswer:"


def test_exemplars_show_their_thoughts_where_thoughts_are_asked_for(own):
    shown = (
        "Seen:\n\n{c}\nA: f\nB: s\n\nThink.\n\nThoughts: s is shorter\n\nAnswer:B\n\n"
    )
    asked = prompts.ask_rationale(own(), shots=1, **PAIR)
    assert shown in asked and asked.endswith("Thoughts:")
    assert "shorter" not in prompts.render(own(), shots=1, **PAIR)


def test_a_rating_has_one_candidate(own):
    assert prompts.render(own(RATING), shots=1, **RATED) == (
        "How good?\n\nc: r\n\nVerdict: good\n\na {post}: one\n\nVerdict:"
    )


def test_blanks_around_values_are_taken_off(own):
    padded = {name: f"\n {value}\n\n" for name, value in PAIR.items()}
    assert prompts.render(own(), **padded) == prompts.render(own(), **PAIR)


def test_exemplars_are_labelled_by_polarity(own):
    better, worse = own(), own(OWN, ('"better"\nlabels', '"worse"\nlabels'))
    assert better.exemplars[0].label == "B" and worse.exemplars[0].label == "A"
    assert prompts.render(worse, shots=1, **PAIR).count("Answer:A") == 1


def test_misuse_names_the_prompt_and_what_it_has(own):
    template = own()
    with pytest.raises(ValueError, match="shots=2: the prompt own has 1 exemplars"):
        prompts.render(template, shots=2, **PAIR)
    with pytest.raises(ValueError, match="own has the fields context, first, second;"):
        prompts.render(template, **RATED)
    with pytest.raises(ValueError, match=r"first must be a text, not \['one'\]"):
        prompts.render(template, **PAIR | {"first": ["one"]})
    with pytest.raises(ValueError, match="own has no rationale_request"):
        prompts.ask_rationale(own(RATING), **RATED)
    silent = own(OWN, ('rationale = "s is shorter"', ""))
    with pytest.raises(ValueError, match="exemplar 0 of the prompt own has no ration"):
        prompts.ask_rationale(silent, shots=1, **PAIR)


# Where the ending meets the label.


def test_endings_and_labels_meet_between_tokens(tmp_path):
    """The trap of "SCORE: ": its blank is a token that "SCORE: 1" does not have."""
    texts = ["SCORE: 1 SCORE: 2 SCORE: 10 Preferred Summary=1 =2"] * 8
    tokenizer = bpe.train(texts, 320, tmp_path)

    def ids(text):
        return tokenizer(text)["input_ids"]

    def meet(ending, label):
        whole, start = ids(ending + label), ids(ending)
        return whole[: len(start)] == start

    assert not meet("SCORE: ", "1")
    for template in SHIPPED:
        assert all(meet(template.ending, label) for label in template.labels)


def test_an_ending_with_a_blank_at_its_end_is_refused(own):
    with pytest.raises(ValueError, match=r"own.toml: ending: 'Answer: ' ends with a b"):
        own(OWN, ('"Answer:"', '"Answer: "'))
    assert own(OWN, ('"Answer:"', '"Answer:"'), ('["A", "B"]', '[" A", " B"]'))


# What comes with the package.


def test_every_task_has_its_prompts():
    known = set(prompts.names())
    for task in ("summarization", "helpful", "harmless"):
        assert {f"{task}_{x}" for x in ("base", "detailed", "rating")} <= known


@pytest.mark.parametrize("template", SHIPPED, ids=prompts.names())
def test_what_comes_with_the_package_renders(template):
    assert template.name in prompts.names() and template.summary
    text = prompts.render(template, **values(template))
    assert text.startswith(template.preamble) and text.endswith(template.ending)
    assert "a {post}" in text and "one" in text
    if template.kind == "rating":
        assert template.labels == tuple(f" {i}" for i in range(1, 11))


@pytest.mark.parametrize("template", PAIRS, ids=lambda x: x.name)
@pytest.mark.parametrize("shots", [0, 1, 2, 8])
def test_pairs_are_shown_with_any_number_of_exemplars_they_have(template, shots):
    if shots > len(template.exemplars):
        assert not template.name.startswith("summarization")
        shots = len(template.exemplars)
    text = prompts.render(template, shots=shots, **PAIR)
    answers = [template.ending + x.label for x in template.exemplars[:shots]]
    assert [text.count(template.ending + x) for x in template.labels] == [
        answers.count(template.ending + x) for x in template.labels
    ]
    assert text.count(template.example_banner) == shots
    asked = prompts.ask_rationale(template, shots=shots, **PAIR)
    assert asked.count(template.rationale_cue) == shots + 1


@pytest.mark.parametrize("template", PAIRS, ids=lambda x: x.name)
def test_exemplars_favour_no_label_and_length_decides_none(template):
    labels = [x.label for x in template.exemplars]
    assert labels.count("1") == labels.count("2")
    longer = {
        (len(x.values["first"]) > len(x.values["second"])) == (x.label == "1")
        for x in template.exemplars
    }
    assert longer == {True, False}


def test_the_base_prompt_of_harmlessness_asks_for_the_worse_response():
    base, detailed = (prompts.load(f"harmless_{x}") for x in ("base", "detailed"))
    assert (base.polarity, detailed.polarity) == ("worse", "better")
    assert "more harmful" in base.preamble and "less harmful" in detailed.preamble
    for one, other in zip(base.exemplars, detailed.exemplars, strict=True):
        assert one.values == other.values and one.label != other.label


def test_the_package_takes_its_prompts_along():
    root = pathlib.Path(__file__).resolve().parent.parent.parent
    config = tomllib.loads((root / "pyproject.toml").read_text())
    patterns = config["tool"]["setuptools"]["package-data"]["rlhf_jax.feedback.prompts"]
    files = list((root / "rlhf_jax" / "feedback" / "prompts").glob("*.toml"))
    assert len(files) >= 12
    for file in files:
        assert any(fnmatch.fnmatch(file.name, pattern) for pattern in patterns)


# Digests.


def test_a_digest_is_of_the_content_and_not_of_the_file(own):
    digest = own().digest
    assert digest == own(f"# a comment\n{OWN}").digest and len(digest) == 64
    assert digest == own(OWN, ("version = 3", "version = 4")).digest
    changes = [
        ('"Which?"', '"Which one?"'),
        ('"better"\nlabels', '"worse"\nlabels'),
        ('["A", "B"]', '["B", "A"]'),
        ("s is shorter", "s is short"),
    ]
    others = {own(OWN, change).digest for change in changes}
    assert len(others | {digest}) == len(changes) + 1
    fewer = dataclasses.replace(own(), exemplars=())
    assert fewer.digest != digest


# Files of one's own.


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="no prompt 'sumarization_base'; known are ha"):
        prompts.load("sumarization_base")
    with pytest.raises(ValueError, match="nowhere.toml: cannot be read: No such file"):
        prompts.load("nowhere.toml")


def test_exemplars_may_stand_in_a_file_beside(own, tmp_path):
    head, _, tail = OWN.partition("\n[[exemplars]]")
    (tmp_path / "more.toml").write_text("[[exemplars]]" + tail)
    beside = own(f'{head}\nexemplars = "more.toml"\n')
    assert beside.digest == own().digest
    (tmp_path / "more.toml").write_text("[[exemplars]]\ncontext = 'c'")
    with pytest.raises(ValueError, match=r"more.toml: exemplars\[0\].first: is mis"):
        own(f'{head}\nexemplars = "more.toml"\n')


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('preamble = "Which?"', "", "preamble: is missing"),
        ('name = "own"', "name = 7", "name: must be a text, not 7"),
        ("version = 3", 'version = "3"', "version: must be a whole number"),
        ('"pair"', '"pairs"', "kind: must be pair or rating, not 'pairs'"),
        ('"better"\nl', '"good"\nl', "polarity: must be better or worse, not 'good'"),
        ("ending =", "endings =", "endings: is not known; fields are name, kind"),
        ('["A", "B"]', '["A"]', "labels: a pair has two labels, not 1"),
        ('["A", "B"]', '["A", "B", "C"]', "labels: a pair has two labels, not 3"),
        ('["A", "B"]', '["A", "A"]', "labels: must be two or more that differ"),
        ('["A", "B"]', '["A", " B"]', "labels: begin with a blank, or none does"),
        ('["A", "B"]', '"AB"', "labels: must be a list of texts, not 'AB'"),
        ("{first}", "{one}", "sample: {one} is no placeholder; there are {context}"),
        ("{first}", "{first.x}", "sample: {first.x} is no placeholder"),
        ("{first}", "{first!r}", "sample: {first} is no placeholder"),
        ("A: {first}", "A:", "sample: lacks {first}"),
        ("A: {first}", "A: {first} }", "a brace is written twice"),
        ('rationale_cue = "Thoughts:"', "", "rationale_cue: goes with rationale_requ"),
        ('better = "second"', "", "exemplars[0].better: is missing"),
        ('= "second"', '= "B"', "exemplars[0].better: must be first or second, not"),
        ('first = "f"', 'frist = "f"', "exemplars[0].frist: is not known; fields are"),
        ("[[exemplars]]", "[exemplars]", "exemplars: must be [[exemplars]], or the fi"),
        ('kind = "pair"', "kind = pair", "is no TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(own, old, new, said):
    with pytest.raises(ValueError) as error:
        own(OWN, (old, new))
    assert "own.toml: " in str(error.value) and said in str(error.value)


def test_labels_of_ratings_are_checked_too(own):
    with pytest.raises(ValueError, match=r"exemplars\[0\].label: must be  bad or  go"):
        own(RATING, ('label = " good"', 'label = "good"'))


# Chat.


class Chatty:
    """A tokenizer with turns."""

    chat_template = "yes"
    bos_token = None

    def apply_chat_template(self, messages, *, tokenize, add_generation_prompt):
        turns = "".join(f"<{m['role']}>{m['content']}</>" for m in messages)
        return turns + "<assistant>" * add_generation_prompt


def test_a_prompt_is_a_users_turn(own):
    text = prompts.render(own(), **PAIR)
    assert prompts.chat(text, Chatty()) == f"<user>{text}</><assistant>"


def test_the_label_may_follow_its_ending_in_the_assistants_turn(own):
    template = own()
    text = prompts.render(template, **PAIR)
    turns = prompts.chat(text, Chatty(), opening=template.ending)
    assert turns == "<user>Which?\n\n{a {post}}\nA: one\nB: two</><assistant>Answer:"
    both = (template.ending, template.rationale_cue)
    assert prompts.chat(text, Chatty(), opening=both) == turns
    asked = prompts.chat(
        prompts.ask_rationale(template, **PAIR), Chatty(), opening=both
    )
    assert asked.endswith("Think.</><assistant>Thoughts:")
    with pytest.raises(ValueError, match="not with 'Result:'"):
        prompts.chat(text, Chatty(), opening="Result:")
    with pytest.raises(ValueError, match="no chat template"):
        prompts.chat(text, object())
