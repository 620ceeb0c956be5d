"""rlhf_jax: align language models in functional JAX, and know what it cost.

The modules are the interface: `from rlhf_jax import losses`, then `losses.dpo(...)`.
Importing the package loads nothing heavy; a module is loaded when it is named.
"""

__version__ = "0.1.0"
