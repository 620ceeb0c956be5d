"""Data sets to arrays: reading rows, tokenising them, batching them."""
