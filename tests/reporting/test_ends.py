"""ends: the last measurement on the test split of each seed, and nothing else."""

import numpy as np

from rlhf_jax.reporting import ends


def record(method, seed, step, **values):
    return {"method": method, "seed": seed, "step": step, **values}


def test_a_line_a_method_with_mean_and_standard_error():
    records = [
        record("ppo", 0, 0, **{"test/reward": 0.1, "test/perplexity": 30.0}),
        record("ppo", 0, 5, **{"test/reward": 0.5, "test/perplexity": 33.0}),
        record("ppo", 0, 6, **{"eval/reward": 9.0}),
        record("ppo", 1, 5, **{"test/reward": 0.7, "test/perplexity": 35.0}),
        record("sft", 0, 5, **{"test/reward": 0.25, "test/perplexity": 31.5}),
        record("best_of_2", 0, 5, **{"eval/reward": 0.6}),
    ]
    error = np.std([0.5, 0.7], ddof=1) / np.sqrt(2)
    assert ends.lines(records, {"ppo": "PPO"}) == [
        f"Test split, PPO: reward 0.6 ± {error:.2g}, perplexity 34 ± 1 (2 seeds).",
        "Test split, sft: reward 0.25, perplexity 31.5 (1 seed).",
    ]


def test_what_was_not_measured_says_so_and_nothing_is_no_line():
    rows = [record("ppo", 0, 5, **{"test/reward": 0.5})]
    (line,) = ends.lines(rows, {})
    assert "perplexity not measured" in line
    assert ends.lines([record("ppo", 0, 5, **{"eval/reward": 1.0})], {}) == []
