"""Scores that are not computed in JAX: user-defined reward functions."""
