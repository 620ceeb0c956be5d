"""Lines to words as Moses has them: lower case, plain punctuation, tokens with spaces.

The order of scripts is that of Lu et al. 2020, arXiv:2003.12694: lowercase, then
normalize-punctuation, then tokenizer; `sacremoses` stands for all three, quirks of the
script in Perl included (a ’ at the end of a word becomes a quotation mark). Characters
are not escaped (an apostrophe stays one), which changes no token's place.
"""

import importlib.metadata


def words(lines, language, *, tokenized=False):
    """Each line as space-separated words: ["It's so."] → ["it 's so ."].

    tokenized: the lines come with spaces between their words already. Tokenising those
    again would take "it 's" for three words, so they are put together first.
    """
    import sacremoses

    normalizer = sacremoses.MosesPunctNormalizer(language, perl_parity=True)
    tokenizer = sacremoses.MosesTokenizer(language)
    if tokenized:
        lines = plain(lines, language)

    def one(line):
        line = normalizer.normalize(line.lower())
        return tokenizer.tokenize(line, return_str=True, escape=False)

    return _each(one, lines)


def plain(lines, language):
    """Words put together again: ["it 's so ."] → ["it's so."]."""
    import sacremoses

    joiner = sacremoses.MosesDetokenizer(language)
    return _each(lambda line: joiner.detokenize(line.split(), unescape=False), lines)


def version():
    """Of the library, on which tokens depend."""
    return importlib.metadata.version("sacremoses")


def _each(function, lines):
    """function(line) of every line, once for equal lines: a third of a corpus is."""
    known = {}
    for line in lines:
        if line not in known:
            known[line] = function(line)
    return [known[line] for line in lines]
