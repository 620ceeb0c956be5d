"""What a reader of a StackLLaMA run is told: lines, tables and notes."""

import json
from typing import NamedTuple

import numpy as np

from experiments.stack_exchange import measure
from experiments.stack_exchange.parts import Parts
from rlhf_jax import elastic_reset
from rlhf_jax.models import lora
from rlhf_jax.reporting import markdown
from rlhf_jax.reporting.claims import Claim

AXES = ("drift/text_nll", "drift/kl_initial", "tax/skills")
RIVALS = ("ppo_kl",)
NULLS = ("ppo_kl_ma50", "ppo_kl_average", "reset_to_initial_kl")
# Declared before any run: the checklist of the paper, and the nulls of averaging.
CLAIMS = (
    Claim("elastic_reset_kl", RIVALS, "gold", 0.1),
    Claim("elastic_reset_kl", RIVALS, "drift/text_nll", 0.05),
    *(
        Claim("elastic_reset_kl", others, f"hypervolume/{axis}")
        for others in (RIVALS, NULLS)
        for axis in AXES
    ),
)
STAGES = ("sft", "reward_model", "judge")
COLUMNS = {
    "eval/reward": "reward",
    "eval/gold": "judge",
    "drift/perplexity": "perplexity",
    "drift/perplexity_windows": "perplexity, mean of windows",
    "drift/kl_initial": "KL to SFT",
    "tax/skills": "accuracy, all suites",
}


class Made(NamedTuple):
    """What the stages left."""

    fine_tuned: str  # model directories, or hub names
    reward: str
    judge: str
    parts: Parts


def lines(console, text):
    """Lines as they are, on the console."""
    for line in text:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def about(subject, config):
    """Lines about what is learned from what."""
    task, adapter = subject.task, subject.settings.adapter
    model, answers = task.model.config, config.answers
    learned = "all weights are trained"
    if adapter is not None:
        count = lora.count(task.params, adapter)
        learned = f"adapters of rank {adapter.rank} are trained, {count:,} weights"
    ends = f"{answers.shortest} to {answers.longest} tokens, none ends by itself"
    if answers.end == "token":
        ends = f"up to {answers.longest} tokens"
    return [
        f"policy    {task.facts['policy']}: {model.layers} layers × {model.width}; "
        f"{learned}",
        f"data      {config.dataset}: {len(task.prompts.tokens)} questions, "
        f"{len(task.eval_prompts.tokens)} held out; answers of {ends}",
        f"reward    {task.facts['reward']}",
        f"judge     {task.facts['judge']}",
    ]


def recovery(chosen):
    """The two methods whose recovery after resets is compared, None without both."""
    both = ("elastic_reset_kl", "reset_to_initial_kl")
    return both if set(both) <= set(chosen) else None


def notes(config, made, subject):
    """What a reader must know to disbelieve the run."""
    kept = elastic_reset.retained_weight(config.rl.decay, config.ticks)
    found = [
        "Every policy is read at the end of its run, none at its best: the rule of the "
        "published step 600.",
        f"The KL penalty is to the fine-tuned model throughout; β starts at "
        f"{config.rl.kl_coef:g}, aims at {config.rl.kl_target:g} nats an answer over "
        f"{config.rl.kl_horizon:g} answers, and is never reset; neither are the value "
        "head nor Adam's moments.",
        f"Resets every {config.rl.reset_every} iterations; the EMA (decay "
        f"{config.rl.decay:g}) ticks once an {config.tick}: w = 1 − decay^"
        f"{config.ticks} = {kept:.3f} is kept where no pass is stopped early.",
        "All seeds share the fine-tuned model, the reward model and the judge: a seed "
        "draws its adapters, its questions and its answers.",
        f"The judge ({made.judge}) reads the same answers as the reward model "
        f"({made.reward}), was trained on other questions, and chose nothing.",
        f"Drift is read off {len(made.parts.heldout)} held-out answers, joined by EOS, "
        f"window {config.answers.window}, stride {config.answers.stride}.",
    ]
    if config.lora.rank:
        found.append(
            f"LoRA of rank {config.lora.rank}: adapters are trained, averaged and "
            "reset, and nothing else; the EMA averages A and B apart, as the "
            "authors' code does."
        )
    if config.suites:
        found += [f"Suite {line}." for line in subject.suites.facts()]
    else:
        found.append("No --suites were given: the alignment tax is not measured.")
    return found


def stages_table(place):
    """What each stage's held-out rows gained, as a section of the report."""
    rows = []
    for name in STAGES:
        file = place / name / "results.json"
        if not file.exists():
            continue
        said = json.loads(file.read_text(encoding="utf-8"))
        for metric in ("nll", "accuracy"):
            if metric in said["after"]:
                before, after = (said[when][metric] for when in ("before", "after"))
                numbers = (markdown.number(x) for x in (before, after))
                rows.append([name, metric, *numbers, str(said["step"])])
    if not rows:
        return ""
    header = ["stage", "on held-out rows", "before", "after", "steps"]
    return "## The stages\n\n" + markdown.table(header, rows)


def together(records, subject):
    """SFT, PPO and Elastic Reset side by side: final policies, means over seeds."""
    last = [r for r in records if r.get("eval/phase") == "final"]
    shown = {k: v for k, v in COLUMNS.items() if any(k in r for r in last)}
    suites = {k: k[4:] for r in last for k in r if _is_suite(k)}
    shown |= suites
    rows = []
    for name in subject.settings.methods:
        own = [r for r in last if r["method"] == name]
        found = [np.mean([r[k] for r in own if k in r] or [np.nan]) for k in shown]
        rows.append([measure.LABELS[name], *map(markdown.number, found)])
    return "## Side by side\n\n" + markdown.table(["method", *shown.values()], rows)


def _is_suite(name):
    return name.startswith("tax/") and not name.startswith("tax/skills")
