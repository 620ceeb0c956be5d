"""RL with TRL's sampling flags: what is drawn, when it ends, how it is weighed."""

import pytest
import small_recipes

from experiments import rl

pytest.importorskip("transformers")
RATIO = "sampling/importance_sampling_ratio"


def test_stop_strings_of_rl_are_checked_with_its_other_flags():
    given = {"policy": "m", "dataset": "d", "reward": "r"}
    with pytest.raises(ValueError, match=r"--stop-strings .*no line break"):
        rl.check(rl.Config(stop_strings=("\\n",), **given))


@pytest.mark.slow
def test_rl_samples_as_it_is_told_and_corrects_if_asked(tmp_path):
    """Ratios start at 1 whatever was filtered; weights have TRL's names."""
    seen = []

    def count(prompts, completions, **columns):
        seen.extend(completions)
        return [float(text.count("s")) for text in completions]

    with small_recipes.programs(tmp_path / "programs"):
        result = rl.train(
            policy=small_recipes.model(tmp_path, template=False),
            dataset=[{"prompt": row["prompt"]} for row in small_recipes.PAIRS],
            reward=count,
            algorithm="grpo",
            steps=2,
            eval_every=0,
            response_length=12,
            top_k=100,
            top_p=0.95,
            min_p=0.01,
            repetition_penalty=1.3,
            stop_strings=("s", "no"),
            rl={
                "rows": 8,
                "minibatches": 2,
                "learning_rate": 1e-2,
                "importance_sampling_correction": 1.25,
            },
            data={"length": 40, "eval_rows": 4},
            output=str(tmp_path / "run"),
            devices=1,
            quiet=True,
        )
    steps = [r for r in result.records if "objective/scores" in r]
    assert len(steps) == 2
    for step in steps:
        assert step["val/ratio_first_error"] <= 1e-4
        assert step[f"{RATIO}/min"] < step[f"{RATIO}/mean"] < step[f"{RATIO}/max"]
        assert step[f"{RATIO}/max"] <= 1.25
    stopped = [text for text in seen if "s" in text or "no" in text]
    assert stopped and len(stopped) < len(seen)
    for text in stopped:  # nothing after the token that completes a string
        assert min(i for s in ("s", "no") if (i := text.find(s)) >= 0) >= len(text) - 4
