"""BLEU against the command line of sacrebleu, and the statistics of messages."""

import math
import subprocess
import sys

import numpy as np
import pytest

from rlhf_jax.data.translation import moses
from rlhf_jax.evaluation import translation

REFERENCES = [
    "A man in an orange hat, starring at something.",
    "A Boston terrier is running on lush green grass in front of a white fence.",
    "A girl in karate uniform breaking a stick with a front kick.",
    "Five people wearing winter jackets and helmets stand in the snow.",
]
HYPOTHESES = [
    "A man in an orange hat staring at something.",
    "A Boston terrier runs on the green grass in front of a white fence.",
    "A girl in a karate uniform breaks a stick with a front kick.",
    "People in winter jackets stand in the snow, wearing helmets.",
]
EOS, UNK = 3, 1


def said_by_sacrebleu(folder, hypotheses, references, *options):
    """The score that `python -m sacrebleu` prints for the same lines in files."""
    files = folder / "hypotheses", folder / "references"
    for file, lines in zip(files, (hypotheses, references), strict=True):
        file.write_text("".join(f"{line}\n" for line in lines))
    command = [sys.executable, "-m", "sacrebleu", str(files[1]), "-i", str(files[0])]
    command += ["-m", "bleu", "-b", "-w", "10", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def test_sacre_bleu_is_what_the_command_line_says(tmp_path):
    ours = translation.sacre_bleu(HYPOTHESES, REFERENCES)
    said = said_by_sacrebleu(tmp_path, HYPOTHESES, REFERENCES)
    assert ours.score == pytest.approx(said, abs=1e-8) and 20 < said < 90
    assert "tok:13a" in ours.signature and "smooth:exp" in ours.signature
    lower = [line.lower() for line in HYPOTHESES]
    cased = translation.sacre_bleu(lower, REFERENCES)
    alike = translation.sacre_bleu(lower, REFERENCES, lowercase=True)
    assert cased.score == pytest.approx(
        said_by_sacrebleu(tmp_path, lower, REFERENCES), abs=1e-8
    )
    assert alike.score == pytest.approx(
        said_by_sacrebleu(tmp_path, lower, REFERENCES, "-lc"), abs=1e-8
    )
    assert alike.score > cased.score and "case:lc" in alike.signature


def test_summed_counts_give_the_bleu_of_any_sample_of_sentences(rng):
    counts = translation.bleu_counts(HYPOTHESES, [[text] for text in REFERENCES])
    for sample in ([0, 1, 2, 3], [2], rng.integers(0, 4, 9).tolist()):
        whole = translation.sacre_bleu(
            [HYPOTHESES[i] for i in sample], [REFERENCES[i] for i in sample]
        )
        assert translation.bleu(counts[sample].sum(0)) == pytest.approx(whole.score)


def test_counts_worked_by_hand():
    counts = translation.bleu_counts(["a b c", "a b"], [["a b d"], ["x", "a b"]])
    assert counts.tolist() == [
        [2, 1, 0, 0, 3, 2, 1, 0, 3, 3],
        [2, 1, 0, 0, 2, 1, 0, 0, 2, 2],
    ]
    # Two words have no 3-grams: their order is left out.
    assert translation.bleu(counts[1], sentence=True) == pytest.approx(100.0)
    assert translation.bleu(np.zeros(10)) == 0.0


def test_tokenized_bleu_is_what_the_command_line_says(tmp_path):
    words = [moses.words(lines, "en") for lines in (HYPOTHESES, REFERENCES)]
    ours = translation.tokenized_bleu(*words)
    plain = ("--tokenize", "none", "--smooth-method", "none", "--force")
    said = said_by_sacrebleu(tmp_path, *words, *plain)
    assert ours.score == pytest.approx(said, abs=1e-8) and 20 < said < 90
    assert "tok:none" in ours.signature and "smooth:none" in ours.signature


def test_bleu_by_hand():
    # 6 of 7 words match, 4 of 6 pairs, 2 of 5 triples, 1 of 4 quadruples.
    result = translation.tokenized_bleu(
        ["the cat sat on the mat ."], ["the cat sat on a mat ."]
    )
    shares = [6 / 7, 4 / 6, 2 / 5, 1 / 4]
    assert result.precisions == pytest.approx([100 * x for x in shares])
    assert result.brevity_penalty == 1 and result.length == result.reference_length == 7
    assert result.score == pytest.approx(100 * math.prod(shares) ** 0.25)
    # The first five words alone: all match, and e^(1 − 7/5) for being short.
    short = translation.tokenized_bleu(["the cat sat on a"], ["the cat sat on a mat ."])
    assert short.score == pytest.approx(100 * math.exp(1 - 7 / 5))


def test_bleu_is_of_the_corpus_and_unsmoothed():
    one, none = "a b c d e", "x y z"
    both = translation.tokenized_bleu([one, none], [one, "p q r"])
    # Matches are summed before they are divided: 5/8, 4/6, 3/4, 2/2.
    expected = 100 * math.prod([5 / 8, 4 / 6, 3 / 4, 1]) ** 0.25
    assert both.score == pytest.approx(expected)
    near = "a b x d e"  # no three words in a row
    assert translation.tokenized_bleu([near], [one]).score == 0.0
    assert translation.sacre_bleu([near], [one]).score > 0.0
    assert translation.tokenized_bleu([""], [one]).score == 0.0


def test_bleu_of_a_text_with_itself_is_100_in_any_order():
    lines = REFERENCES[::-1]
    for bleu in (translation.sacre_bleu, translation.tokenized_bleu):
        assert bleu(lines, lines).score == pytest.approx(100)
        forth = bleu(HYPOTHESES, REFERENCES).score
        assert bleu(HYPOTHESES[::-1], REFERENCES[::-1]).score == pytest.approx(forth)


@pytest.mark.parametrize("lines", [(["a"], []), ([], []), (["a", "b"], ["a"])])
def test_lists_that_do_not_fit_are_refused(lines):
    message = f"{len(lines[0])} hypotheses and {len(lines[1])} references: give one"
    with pytest.raises(ValueError, match=message):
        translation.tokenized_bleu(*lines)


# Messages

TOKENS = np.array([[4, 4, 5, 3, 0], [4, 1, 3, 9, 9], [5, 5, 5, 5, 5]])
MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
HUMAN = np.array([[4, 5, 3, 0], [4, 6, 5, 3]])
HUMAN_MASK = np.array([[1, 1, 1, 0], [1, 1, 1, 1]])


def statistics(tokens=TOKENS, mask=MASK):
    return translation.message_statistics(
        tokens, mask, HUMAN, HUMAN_MASK, size=10, eos=EOS, unk=UNK
    )


def test_statistics_by_hand():
    result = statistics()
    # Without their ends the messages are 4 4 5 | 4 1 | 5 5 5 5 5: ten tokens.
    assert result["message/length"] == pytest.approx(10 / 3)
    assert result["message/length_ratio"] == pytest.approx((10 / 3) / (5 / 2))
    assert result["message/ended"] == pytest.approx(2 / 3)
    assert result["message/unknown"] == pytest.approx(1 / 10)
    assert result["message/stutter"] == pytest.approx((1 + 0 + 4) / (2 + 1 + 4))
    assert result["message/repeated_2"] == pytest.approx(np.mean([0, 0, 3 / 4]))
    assert result["message/types"] == 3
    shares = {4: 3 / 10, 5: 6 / 10, 1: 1 / 10}
    entropy = -sum(p * math.log(p) for p in shares.values())
    assert result["message/type_perplexity"] == pytest.approx(math.exp(entropy))
    human, divergence = {4: 2 / 5, 5: 2 / 5, 6: 1 / 5}, 0.0
    for token in (1, 4, 5, 6):
        p, q = shares.get(token, 0.0), human.get(token, 0.0)
        for x in (p, q):
            divergence += x / 2 * math.log(2 * x / (p + q)) if x else 0.0
    assert result["message/unigram_divergence"] == pytest.approx(divergence)


def test_human_text_does_not_diverge_from_itself():
    result = statistics(HUMAN, HUMAN_MASK)
    assert result["message/unigram_divergence"] == 0.0
    assert result["message/length_ratio"] == result["message/ended"] == 1.0
    assert result["message/stutter"] == result["message/unknown"] == 0.0


def test_what_is_masked_or_after_the_end_does_not_count():
    junk = np.where(MASK == 0, 7, TOKENS)
    after = TOKENS.copy()
    after[1, 3:] = 8
    seen = MASK.copy()
    seen[1, 3:] = 1  # valid, but said after the end
    assert statistics(junk) == statistics() == statistics(after, seen)


def test_the_order_of_messages_does_not_matter(rng):
    order = rng.permutation(3)
    assert statistics(TOKENS[order], MASK[order]) == pytest.approx(statistics())


def test_divergence_and_perplexity_at_their_extremes():
    one, other = np.eye(4)[:2]
    even = np.full(4, 0.25)
    assert translation.jensen_shannon(one, other) == pytest.approx(math.log(2))
    assert translation.jensen_shannon(even, even) == 0.0
    mixed = translation.jensen_shannon(one, even)
    assert mixed == pytest.approx(translation.jensen_shannon(even, one))
    assert translation.type_perplexity(one) == pytest.approx(1.0)
    assert translation.type_perplexity(even) == pytest.approx(4.0)


def test_no_messages_at_all_are_zeros():
    empty = np.zeros_like(TOKENS)
    result = statistics(empty, empty)
    assert result["message/length"] == result["message/types"] == 0.0
    assert result["message/type_perplexity"] == 1.0  # exp 0
    assert all(np.isfinite(list(result.values())))
    assert translation.frequencies(empty, empty, size=5).sum() == 0.0
