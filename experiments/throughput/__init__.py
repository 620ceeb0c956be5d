"""How fast an RL iteration is, against whom, and whether a model fits.

Empty on purpose: a peer's Python, which may lack jax, imports its worker from here.
"""
