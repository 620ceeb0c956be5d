"""What alpaca_eval makes of judgments, and its leaderboards, for machines without it.

    pip install alpaca_eval==0.6.6
    python -m tests.golden.make_alpaca_eval COEFFICIENTS PAIRS

writes alpaca_eval.npz beside this file:

- made-up judgments, and what the package's `get_length_controlled_winrate` makes of
  them. It asks the hub for difficulties and for the anchors' judgments; here it is
  given made-up ones instead;
- the same of real judgments, of which only the results are kept: PAIRS is the file
  alpaca_eval_prefs/train.jsonl.gz of the data folder;
- the numbers of the leaderboards within the package, a row a model. Those of
  judgments that are probabilities come with the coefficients that were published for
  the same models: COEFFICIENTS is baseline_gpt4_1106_preview.csv in the package's
  repository, src/alpaca_eval/metrics/weights/weighted_alpaca_eval_gpt4_turbo/
  length_controlled_v1, at commit 01f3cb2de42f7cc814d838a8946563ab9af1725c.

alpaca_eval is copyright 2023 Yann Dubois, Xuechen Li, Rohan Taori, Tianyi Zhang and
Ishaan Gulrajani, and under the Apache License 2.0. No code and no text of it stands in
the file, only numbers and names of models. Its wheel holds no judgments of single
answers, so no entry of a leaderboard is fitted anew from the judgments behind it.
"""

import argparse
import gzip
import importlib.metadata
import json
import logging
import pathlib
import tempfile
import unittest.mock

import numpy as np

FILE = pathlib.Path(__file__).resolve().parent / "alpaca_eval.npz"
# case: (prompts, judgments are probabilities, how good the answers are, failures)
CASES = {
    "benchmark": (805, True, -0.5, 0),
    "verdicts": (120, False, 0.3, 0),
    "failures": (300, True, -2.0, 7),
    "few": (60, False, 0.0, 0),
    "hopeless": (200, True, -5.0, 0),
}
MODELS = ("claude", "alpaca-7b", "phi-2")  # of the real judgments
FORMULAS = ("v1", "noreg", "minimal")  # with anchors, without, without difficulties
OPPONENT = "text_davinci_003"


def inputs(case):
    """Made-up judgments of a case, and of two anchors: {name: array}."""
    n, soft, quality, failures = CASES[case]
    rng = np.random.default_rng(list(CASES).index(case))
    difficulty = rng.normal(0.0, 1.5, n).round(3)
    other, own = rng.integers(50, 3000, n), rng.integers(20, 2500, n)
    gaps = (other - own) / (other - own).std(ddof=1)
    logits = quality - 1.5 * np.tanh(gaps) + 0.9 * difficulty
    logits = logits + rng.logistic(0.0, 0.5, n)
    p = (1 / (1 + np.exp(-2 * logits))).round(4) if soft else (logits > 0) * 1.0
    p[rng.choice(n, failures, replace=False)] = np.nan
    shifts = np.repeat([-0.8, 0.8], n)
    anchor_gaps = (shifts + rng.normal(size=2 * n)).round(3)
    anchor_p = 1 / (1 + np.exp(1.6 * np.tanh(anchor_gaps) + rng.normal(0, 0.3, 2 * n)))
    return {
        "probabilities": p,
        "lengths": own,
        "other_lengths": other,
        "difficulty": difficulty,
        "anchor_probabilities": anchor_p.round(4),
        "anchor_differences": anchor_gaps,
    }


def package(given, formula):
    """(win rate, its standard error, C, coefficients) of alpaca_eval, shares of 1."""
    import pandas as pd
    from alpaca_eval.metrics import glm_winrate

    n = len(given["probabilities"])
    judged = pd.DataFrame(
        {
            "preference": 1 + given["probabilities"],
            "output_1": ["x" * int(length) for length in given["other_lengths"]],
            "output_2": ["x" * int(length) for length in given["lengths"]],
            "generator_1": "baseline",
            "generator_2": "model",
        },
        index=pd.RangeIndex(n, name="index"),
    )
    anchors = pd.DataFrame(
        {
            "preference": given["anchor_probabilities"],
            "index": np.tile(np.arange(n), 2),
            "std_delta_len": given["anchor_differences"],
            "instruction_difficulty": np.tile(given["difficulty"], 2),
            "not_gamed_baseline": False,
            "model": "",
        }
    )
    fit, fitted = glm_winrate.fit_LogisticRegressionCV, []
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        anchors.to_csv(file.name, index=False)
        with unittest.mock.patch.multiple(
            glm_winrate,
            hf_hub_download=lambda **_: file.name,
            fit_LogisticRegressionCV=lambda *a, **k: (
                fitted.append(fit(*a, **k)) or fitted[0]
            ),
        ):
            found = glm_winrate.get_length_controlled_winrate(
                judged,
                glm_name=f"length_controlled_{formula}",
                save_weights_dir=None,
                is_warn_extreme_changes=False,
            )
    value, se = found["length_controlled_winrate"], found["lc_standard_error"]
    return np.array([value / 100, se / 100, *fitted[0].C_, *fitted[0].coef_[0]])


def real(path, model):
    """Real judgments of a model's answers against those of `OPPONENT`, as `inputs`."""
    found = []
    for row in map(json.loads, gzip.open(path, "rt", encoding="utf-8")):
        if {row["chosen_model"], row["rejected_model"]} == {model, OPPONENT}:
            won = row["chosen_model"] == model
            sides = (row["chosen"], row["rejected"])[:: 1 if won else -1]
            found.append((float(won), *map(len, sides)))
    names = ("probabilities", "lengths", "other_lengths")
    return dict(zip(names, np.array(found).T, strict=True))


def leaderboards(path):
    """{name: array} of the package's leaderboards; `path` holds the coefficients."""
    import alpaca_eval
    import pandas as pd

    folder = pathlib.Path(alpaca_eval.__file__).parent / "leaderboards"
    tables = {
        file.name.removesuffix("_leaderboard.csv"): pd.read_csv(file, index_col=0)
        for file in sorted(folder.glob("data_*/*_leaderboard.csv"))
    }
    soft = tables.pop("weighted_alpaca_eval_gpt4_turbo")
    soft = soft.join(pd.read_csv(path, index_col=0))
    hard = pd.concat(tables.values())
    counts = ["n_wins", "n_draws", "n_wins_base"]
    return {
        "hard/counts": hard[counts].to_numpy(int),
        "hard/win_rate": hard["win_rate"].to_numpy(),
        "hard/standard_error": hard["standard_error"].to_numpy(),
        "soft/names": soft.index.to_numpy(str),
        "soft/counts": soft[counts].to_numpy(int),
        "soft/discrete_win_rate": soft["discrete_win_rate"].to_numpy(),
        "soft/controlled": soft["length_controlled_winrate"].to_numpy(),
        "soft/controlled_se": soft["lc_standard_error"].to_numpy(),
        # θ, ψ, b; NaN where none were published
        "soft/coefficients": soft.iloc[:, -3:].to_numpy(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("coefficients", type=pathlib.Path)
    parser.add_argument("pairs", type=pathlib.Path)
    given = parser.parse_args()
    logging.disable(logging.INFO)
    packages = ("alpaca_eval", "scikit-learn", "numpy", "pandas")
    made = {
        "version": ", ".join(f"{x} {importlib.metadata.version(x)}" for x in packages)
    }
    for case in CASES:
        made |= {f"{case}/{name}": x for name, x in inputs(case).items()}
        for formula in FORMULAS:
            made[f"{case}/{formula}"] = package(inputs(case), formula)
    for model in MODELS:
        rows = real(given.pairs, model)
        n = len(rows["probabilities"])
        unused = {
            "difficulty": np.zeros(n),
            "anchor_probabilities": np.full(2 * n, 0.5),
            "anchor_differences": np.zeros(2 * n),
        }
        made[f"real/{model}"] = package(rows | unused, "minimal")
    np.savez_compressed(FILE, **made, **leaderboards(given.coefficients))


if __name__ == "__main__":
    main()
