"""Benchmarks: what a model can do, whatever it was aligned to."""
