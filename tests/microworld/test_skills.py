"""Skills: right answers, disjoint splits, exact match; and the tokenizer on disk."""

import json
import subprocess
import sys

import numpy as np
import pytest

from rlhf_jax import microworld
from rlhf_jax.microworld import skills, tokenizer


@pytest.fixture(scope="module", params=(0, 1))
def world(request):
    return microworld.create(request.param)


def rows(world, kind, split="test", n=300):
    """(question, answer) as words."""
    items = skills.items(world, kind, split, n)
    return [
        (world.decode(question).split(), world.decode(answer).split())
        for question, answer in zip(items.questions, items.answers, strict=True)
    ]


def truth(world):
    """The films' facts by word, written down anew from the arrays."""
    films, name = world.films, world.vocabulary.__getitem__
    facts = {}
    for i, title in enumerate(films.title):
        facts[name(title)] = {
            "director": name(films.director[i]),
            "star": name(films.star[i]),
            "year": name(films.year[i]),
            "genre": name(world.lexicon["genre"][films.genre[i]]),
        }
    for i, person in enumerate(world.lexicon["name"]):
        facts[name(person)] = {
            "home": name(films.home[i]),
            "friend": name(films.friend[i]),
        }
    return facts


@pytest.mark.parametrize("kind", ["fact", "hop"])
def test_knowledge_is_true_in_both_phrasings(world, kind):
    facts, phrasings = truth(world), set()
    for (form, *words, ask), answer in rows(world, kind):
        assert (form, ask) == ("question", "?")
        phrasings.add("of" in words)
        path = words[::2] if "of" in words else words[::-2]
        if "of" not in words:  # moonfall 's director 's home
            path = [*words[::-1][:-1:2], words[0]]
        value = path[-1]
        for relation in path[-2::-1]:
            value = facts[value][relation]
        assert answer == [value]
    assert phrasings == {True, False}


def test_additions_wrap_at_one_hundred(world):
    result = rows(world, "addition", "train", 400)
    for (_, first, plus, second, _), (answer,) in result:
        assert plus == "plus" and (int(first) + int(second)) % 100 == int(answer)
    assert any(int(words[1]) + int(words[3]) >= 100 for words, _ in result)


def test_translations_swap_neighbours(world):
    for (_, *words, _), answer in rows(world, "translation"):
        meant = [
            world.vocabulary[world.translation[world.lexicon.id(word)]]
            for word in words
        ]
        assert answer == [meant[i] for i in (1, 0, 3, 2, 4)]


def test_translation_is_one_to_one_into_words_of_reviews(world):
    words = world.lexicon
    meaning = world.translation[words["source"]]
    used = {*words["aspect"], *words["praise_adjective"], *words["blame_adjective"]}
    assert len(set(meaning)) == len(words["source"]) == 32 and set(meaning) <= used
    assert (world.translation > 0).sum() == 32


def test_a_rating_counts_the_phrases_that_praise(world):
    words, counts = world.lexicon, []
    praised = {world.vocabulary[i] for i in words["praise_adjective"]}
    for (*passage, form, score, ask), (answer,) in rows(world, "rating"):
        assert (form, score, ask) == ("question", "score", "?")
        passage = np.reshape(passage, (skills.PHRASES, 4))
        assert [*passage[:, 3]] == [",", ",", "."] and {*passage[:, 0]} == {"the"}
        for adjective, aspect in passage[:, 1:3]:
            assert words.fits[words.id(adjective), words.topic[words.id(aspect)]]
        assert len({*passage[:, 2]}) == skills.PHRASES
        counts.append(sum(word in praised for word in passage[:, 1]))
        assert int(answer) == counts[-1]
    expected = 300 * np.array([1, 3, 3, 1]) / 8
    np.testing.assert_allclose(np.bincount(counts), expected, atol=35)


@pytest.mark.parametrize("kind", skills.KINDS)
def test_items_are_padded_fixed_and_distinct(world, kind):
    items = skills.items(world, kind, "test", 300)
    again = skills.items(world, kind, "test", 300)
    for one, two in zip(items, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert items.questions.shape == (300, skills.WIDTH)
    assert items.answers.shape == (300, skills.ANSWER)
    assert (items.question_mask[:, -1] == 1).all() and (items.answer_mask[:, 0]).all()
    assert ((items.answers == world.eos_id).sum(1) == 1).all()
    first = np.argmax(items.question_mask, axis=1)[:, None]
    assert (np.take_along_axis(items.questions, first, 1) == world.bos_id).all()
    assert len(np.unique(items.questions, axis=0)) == 300


@pytest.mark.parametrize("kind", ["translation", "rating"])
def test_made_items_of_the_splits_are_disjoint(world, kind):
    seen = [
        {tuple(row) for row in skills.items(world, kind, split, 2000).questions}
        for split in ("train", "validation", "test")
    ]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])


def test_correct_wants_the_answer_and_its_end(world):
    items = skills.items(world, "translation", "test", 4)
    right, mask = items.answers.copy(), items.answer_mask.copy()
    assert skills.correct(items.answers, right, mask).all()
    wide = [np.pad(x, [(0, 0), (0, 3)], constant_values=1) for x in (right, mask)]
    wide[1][:, skills.ANSWER :] = 0
    assert skills.correct(items.answers, *wide).all()
    cut = mask.copy()
    cut[0, mask[0].sum() - 1] = 0  # no end word
    wrong = right.copy()
    wrong[1, 0] = items.answers[1, 0] + 1
    assert not skills.correct(items.answers, right, cut)[0]
    assert not skills.correct(items.answers, wrong, mask)[1]
    late = np.concatenate([right, np.full((4, 1), 7)], axis=1)
    assert not skills.correct(items.answers, late, late != 0).any()


def test_misuse_is_named(world):
    with pytest.raises(ValueError, match="kind 'spelling'"):
        skills.items(world, "spelling")
    with pytest.raises(ValueError, match="split 'dev'"):
        skills.items(world, "fact", "dev")


def test_saved_tokenizer_agrees_with_the_world(world, tmp_path):
    tokenizer.save(world, tmp_path)
    loaded = tokenizer.load(tmp_path)
    ids = np.random.default_rng(0).integers(4, len(world.vocabulary), 60)
    text = world.decode(ids)
    assert loaded(text)["input_ids"] == world.encode(text) == ids.tolist()
    assert loaded.decode(ids) == text
    assert loaded("nonsenseword <eos>")["input_ids"] == [world.unk_id, world.eos_id]
    assert len(loaded) == len(world.vocabulary)
    special = loaded.pad_token_id, loaded.eos_token_id, loaded.bos_token_id
    assert special == (world.pad_id, world.eos_id, world.bos_id)
    padded = loaded(["a", text], padding=True)["input_ids"]
    assert padded[0][:-1] == [world.pad_id] * 59
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["unk_token"] == "<unk>"


def test_the_microworld_needs_no_jax():
    code = (
        "import sys, numpy as np\n"
        "from rlhf_jax import microworld\n"
        "world = microworld.create(0)\n"
        "microworld.people.pairs(world, np.random.default_rng(0), 4)\n"
        "assert not {'jax', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_looking_at_a_world_prints_all_its_texts():
    command = [
        sys.executable,
        "-m",
        "rlhf_jax.microworld",
        "--seed",
        "3",
        "--rows",
        "2",
    ]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert all(
        word in shown for word in ("reviews", "translate", "rating", "judging", "nats")
    )
