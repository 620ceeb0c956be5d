"""Pairs of languages: corpora, subwords, batches by tokens."""
