"""What the report of a StackLLaMA run says of its own: two tables, and notes."""

import json

import numpy as np

from experiments.stack_exchange import methods
from rlhf_jax import elastic_reset
from rlhf_jax.reporting import markdown, recoveries
from rlhf_jax.reporting.sections import Section

STAGES = ("sft", "reward_model", "judge")
COLUMNS = {
    "eval/reward": "reward",
    "eval/gold": "judge",
    "drift/perplexity": "perplexity",
    "drift/perplexity_windows": "perplexity, mean of windows",
    "drift/kl_initial": "KL to SFT",
    "tax/skills": "accuracy, all suites",
}


def of(folder, study):
    """The sections of a study in its folder: its stages, its models, its recovery."""

    def render(_, evidence):
        yield stages(folder)
        yield side_by_side(evidence.records, study)

    both = set(methods.RECOVERY) <= set(study.methods)
    compared = [recoveries.section(*methods.RECOVERY)] if both else []
    return (Section("stages", None, render, after="results"), *compared)


def stages(folder):
    """The section on what each stage gained on its held-out rows, "" without stages.

    folder: of the whole run.
    """
    rows = []
    for name in STAGES:
        file = folder / name / "results.json"
        if not file.exists():
            continue
        results = json.loads(file.read_text(encoding="utf-8"))
        for metric in ("nll", "accuracy"):
            if metric in results["after"]:
                both = (results[when][metric] for when in ("before", "after"))
                numbers = map(markdown.number, both)
                rows.append([name, metric, *numbers, str(results["step"])])
    if not rows:
        return ""
    header = ["stage", "on held-out rows", "before", "after", "steps"]
    return "## The stages\n\n" + markdown.table(header, rows)


def side_by_side(records, study):
    """The section on the final policies of all methods, means over seeds."""
    last = [r for r in records if r.get("eval/phase") == "final"]
    suites = study.task.facts["suites"]
    columns = COLUMNS | {f"tax/{name}": name for name in suites}
    columns = {
        key: title for key, title in columns.items() if any(key in r for r in last)
    }
    rows = []
    for name in study.methods:
        seeds = [r for r in last if r["method"] == name]
        means = [np.mean([r[k] for r in seeds if k in r] or [np.nan]) for k in columns]
        rows.append([methods.METHODS[name].label, *map(markdown.number, means)])
    header = ["method", *columns.values()]
    return "## Side by side\n\n" + markdown.table(header, rows)


def notes(config, study):
    """What a reader needs to know in order to doubt the run."""
    facts, answers, rl = study.task.facts, config.answers, config.rl
    weight = elastic_reset.retained_weight(rl.decay, config.ticks)
    lines = [
        "Every policy is measured at the end of its run, none at its best: the paper "
        "compares checkpoints of step 600.",
        "The KL penalty is to the fine-tuned model throughout. Its coefficient β "
        f"starts at {rl.kl_coef:g} and aims at {rl.kl_target:g} nats an answer over "
        f"{rl.kl_horizon:g} answers. Resets leave β, the value head and Adam's moments "
        "alone.",
        f"Resets every {rl.reset_every} iterations; the EMA (decay {rl.decay:g}) ticks "
        f"once an {config.tick}. A reset retains w = 1 − decay^{config.ticks} = "
        f"{weight:.3f} where no pass is stopped early.",
        "All seeds share the fine-tuned model, the reward model and the judge. A seed "
        "draws the adapters, the questions and the answers.",
        f"The judge ({facts['judge']}) scores the same answers as the reward model "
        f"({facts['reward']}). It was trained on other questions and selects nothing.",
        f"Drift is measured on {facts['heldout']} held-out answers, joined by EOS and "
        f"read in windows of {answers.window} tokens with stride {answers.stride}.",
    ]
    if config.lora.rank:
        lines.append(
            f"LoRA of rank {config.lora.rank}: only the adapters are trained, averaged "
            "and reset. The EMA averages A and B separately, as the authors' code does."
        )
    if facts["suites"]:
        lines += [f"Suite {name}: {line}." for name, line in facts["suites"].items()]
    else:
        lines.append("No --suites were given: the alignment tax is not measured.")
    return lines
