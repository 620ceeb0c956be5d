"""Moses tokenisation: lower case, normalised punctuation, tokens split by spaces.

The steps are those of Lu et al. 2020, arXiv:2003.12694: lowercase, then
normalize-punctuation, then tokenizer. `sacremoses` does all three, including the quirks
of the Perl scripts (a ’ at the end of a word becomes a quotation mark). Characters are
not escaped (an apostrophe stays one), which does not change where tokens are split.
"""

import functools
import importlib.metadata


def words(lines, language, *, tokenized=False):
    """Each line as space-separated words: ["It's so."] → ["it 's so ."].

    tokenized: the lines are tokenised already. They are detokenised first, since
    tokenising "it 's" again would give three words.
    """
    import sacremoses

    normalizer = sacremoses.MosesPunctNormalizer(language, perl_parity=True)
    tokenizer = sacremoses.MosesTokenizer(language)
    if tokenized:
        lines = plain(lines, language)

    def one(line):
        line = normalizer.normalize(line.lower())
        return tokenizer.tokenize(line, return_str=True, escape=False)

    return list(map(functools.cache(one), lines))  # a third of lines are repeated


def plain(lines, language):
    """Detokenised lines: ["it 's so ."] → ["it's so."]."""
    import sacremoses

    joiner = sacremoses.MosesDetokenizer(language)

    def one(line):
        return joiner.detokenize(line.split(), unescape=False)

    return list(map(functools.cache(one), lines))


def version():
    """The version of sacremoses, on which the tokens depend."""
    return importlib.metadata.version("sacremoses")
