"""The test split: the last measurement of each seed, and nothing else."""

import numpy as np

from rlhf_jax.reporting import held_out, report, sections


def record(method, seed, step, **values):
    return {"method": method, "seed": seed, "step": step, **values}


def table(records, labels):
    about = report.Report("Test", labels=labels)
    evidence = sections.Evidence(records, [], {}, [], about)
    text = "\n".join(held_out.render(held_out.compute(evidence), evidence))
    return [line for line in text.splitlines() if line.startswith("| ")][1:]


def test_a_row_a_method_with_mean_and_standard_error():
    records = [
        record("ppo", 0, 0, **{"test/reward": 0.1, "test/perplexity": 30.0}),
        record("ppo", 0, 5, **{"test/reward": 0.5, "test/perplexity": 33.0}),
        record("ppo", 0, 6, **{"eval/reward": 9.0}),
        record("ppo", 1, 5, **{"test/reward": 0.7, "test/perplexity": 35.0}),
        record("sft", 0, 5, **{"test/reward": 0.25, "test/perplexity": 31.5}),
        record("best_of_2", 0, 5, **{"eval/reward": 0.6}),
    ]
    error = np.std([0.5, 0.7], ddof=1) / np.sqrt(2)
    assert table(records, {"ppo": "Proximal"}) == [
        f"| Proximal | 0.6 ± {error:.2g} | 34 ± 1 | 2 |",
        "| SFT | 0.25 | 31.5 | 1 |",
    ]


def test_what_was_not_measured_says_so_and_nothing_is_no_table():
    rows = [record("ppo", 0, 5, **{"test/reward": 0.5})]
    assert table(rows, {}) == ["| PPO | 0.5 | not measured | 1 |"]
    assert table([record("ppo", 0, 5, **{"eval/reward": 1.0})], {}) == []
