"""How fast an RL iteration runs, compared with peers, and whether a model fits.

Deliberately empty: a peer's Python, which may lack jax, imports its worker from here.
"""
