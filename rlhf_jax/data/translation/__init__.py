"""Parallel corpora: Moses tokens, subwords, and batches by number of tokens."""
