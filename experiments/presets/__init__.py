"""Flags as papers have them, one module a benchmark; `--preset NAME` sets them."""
