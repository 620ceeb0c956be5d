"""Are these worlds fit for use?

Studies repeat over worlds, so each must be as good as the next. This pretrains the
policy of every world and prints what a study relies on: how well it models the corpus,
where its skills start, what gold its samples earn, that no text earns gold whatever the
prompt, and how good a reward model is. With --contract it also trains PPO, which must
over-optimise the reward model, and PPO + KL, which must not.

    python -m experiments.worlds                             # 15 worlds
    python -m experiments.worlds --worlds 10 --contract

Worlds run in processes of one core each. Pretrained policies stay in the cache, where
other experiments find them.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import time

import jax
import numpy as np

from rlhf_jax import microworld, ranges
from rlhf_jax.cli import command, experiment, options
from rlhf_jax.microworld import attacks, people, reviews, skills
from rlhf_jax.reporting import markdown
from rlhf_jax.runtime import files, loop, parallel, progress, provenance
from rlhf_jax.studies import evaluators, policy_gradient
from rlhf_jax.studies.interfaces import Run, Unit
from rlhf_jax.tasks import microworld as small_world

# One thread a process: as many worlds at a time as there are cores.
_ONE_THREAD = {
    "NPROC": "1",  # the size of XLA's pool of threads
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_STARTS = (0.6, 0.95)  # where skills should start, all kinds together
# Title of a column, key in a world's record.
_COLUMNS = (
    ("world", "world"),
    ("entropy of a review", "entropy"),
    ("KL(corpus‖π₀)", "kl"),
    *((kind, f"skill/{kind}") for kind in skills.KINDS),
    ("skills", "skills"),
    ("gold, π₀", "gold"),
    ("gold, corpus", "corpus_gold"),
    ("its 90th percentile", "corpus_gold_90"),
    ("best constant text", "constant"),
    ("RM accuracy", "accuracy"),
    ("RM on gold", "gold_accuracy"),
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run depends on."""

    worlds: ranges.Count = 15
    """Microworlds to make and measure."""
    first_world: ranges.Natural = 0
    """Seed of the first one; the others follow it."""
    processes: ranges.Count = 2
    """Worlds at a time, each on one core."""
    contract: bool = False
    """Also train PPO and PPO + KL: the first must over-optimise, the other not."""
    policy: ranges.Text = "scratch:micro"
    """scratch:<preset>, the policy that is pretrained in each."""
    seed: ranges.Natural = 0
    """Seed of the reward model and of PPO in every world."""
    steps: ranges.Count = 50
    """Iterations of PPO."""
    eval_every: ranges.Count = 10
    """Iterations between evaluations of PPO."""
    output: ranges.Text | None = None
    """The run folder; by default a new one under runs/worlds."""
    resume: bool = False
    """Go on with the worlds that --output, or the latest run, has not measured."""
    devices: ranges.Count = 1
    """Devices of each process."""
    cache: ranges.Text | None = None
    """Folder for pretrained weights; by default ~/.cache/rlhf_jax."""
    rl: options.RL = dataclasses.field(default_factory=options.RL)
    microworld: small_world.Config = dataclasses.field(
        default_factory=small_world.Config
    )


CONFIG = Config()


def announce(config, worlds, layout):
    """Lines that describe the run before it starts."""
    del layout
    what = "measured, PPO and PPO + KL trained" if config.contract else "measured"
    return (
        f"worlds    {worlds[0]} to {worlds[-1]}: pretrained, {what}",
        f"policy    {config.policy}",
        f"run       {config.processes} process(es) of one core each",
    )


def measure_all(config, worlds, setting):
    """The record of every world; those that a folder holds already are read."""
    folder = setting.folder / "worlds"
    if not config.resume:
        for old in folder.glob("*.json"):
            old.unlink()
    open_worlds = [w for w in worlds if not _file(setting.folder, w).exists()]
    arguments = config, setting.folder, setting.cache
    with _pool(min(config.processes, len(open_worlds))) as pool:
        started = [pool.submit(measure, world, *arguments) for world in open_worlds]
        for count, done in enumerate(concurrent.futures.as_completed(started), 1):
            record = done.result()
            line = f"world {record['world']}: {progress.duration(record['seconds'])}"
            experiment.say(setting.console, [f"{line} ({count}/{len(started)})"])
            if setting.signals.received:
                pool.shutdown(cancel_futures=True)
                stop = loop.Interrupted(setting.signals.received)
                stop.folder = setting.folder
                raise stop
    return [json.loads(_file(setting.folder, w).read_text()) for w in worlds]


def measure(world, config, folder, cache):
    """Pretrains and measures a world, in a process of its own; writes its record."""
    started = time.monotonic()
    command.prepare_devices(config, cache, ())
    layout = parallel.layout("data", config.devices)
    task = small_world.create(
        dataclasses.replace(config.microworld, world=world),
        config.policy.removeprefix("scratch:"),
        "train",
        layout=layout,
        cache=cache,
        report=lambda text, **news: None,
    )
    record = {"world": world, **_corpus(world), **_policy(task, world, config, layout)}
    if config.contract:
        record["ppo"] = climb(task, config, layout, world, kl_coef=0.0)
        record["ppo_kl"] = climb(task, config, layout, world)
    record["seconds"] = time.monotonic() - started
    files.write_json(_file(folder, world), record)
    return record


def climb(task, config, layout, world, **changes):
    """Trains PPO: [{"step", "reward", "gold", "kl"}] of its evaluations.

    changes: fields of `policy_gradient.Hyper`.
    """
    rl, run = config.rl, Run("ppo", Unit(world, config.seed), layout)
    member = policy_gradient.Member(
        task,
        options.algorithm(rl, sampling=task.sampling),
        options.hyper(rl, config.steps)._replace(**changes),
        task.rewards["proxy"](config.seed),
        seed=config.seed,
        rows=rl.rows,
    )
    trainer = policy_gradient.trainer(member, layout)
    evaluate = evaluators.own_samples(task, key=jax.random.key(0))
    state, rows = trainer.start(), []
    for step in range(config.steps + 1):
        if step % config.eval_every == 0 or step == config.steps:
            now = evaluate(trainer.weights(trainer.policy(state)), run)[0]
            keys = {"reward": "eval/reward", "gold": "eval/gold"}
            keys["kl"] = "drift/kl_initial"
            rows.append({"step": step} | {k: now[name] for k, name in keys.items()})
        if step < config.steps:
            state, *_ = trainer.advance(state, step)
    return rows


def over_optimised(rows):
    """Did the proxy gain 1 sd while gold fell 30% below its own peak?"""
    gold = [row["gold"] for row in rows]
    gain = rows[-1]["reward"] - rows[0]["reward"]
    return gain >= 1.0 and gold[-1] <= 0.7 * max(gold)


def _policy(task, world, config, layout):
    """The initial policy and a reward model of it."""
    run, found = Run("zero_shot", Unit(world, config.seed), layout), {}
    for evaluate in evaluators.language(task)[0]:
        found |= evaluate(task.params, run)[0]
    facts = task.rewards["train"](config.seed).facts
    return {
        "kl": found["truth/kl_corpus_policy"],
        "nll": found["drift/text_nll"],
        "skills": found["tax/skills"],
        **{f"skill/{kind}": found[f"tax/{kind}"] for kind in skills.KINDS},
        "gold": found["eval/gold"],
        "duplicates": found["eval/duplicates"],
        "accuracy": facts["accuracy"],
        "gold_accuracy": facts["gold_accuracy"],
    }


def _corpus(seed):
    """The corpus: entropy, gold, and the best text that does not read its prompt."""
    world, rng = microworld.create(seed), np.random.default_rng([seed, 3])
    prompts, mask, _ = reviews.prompts(world, rng, 512)
    own = people.reward(world, prompts, *reviews.sample(world, rng, prompts, mask))
    text, earned = attacks.best_constant(world, rng, prompts)
    return {
        "entropy": microworld.likelihood.entropy(world, rng, 512)[0],
        "corpus_gold": float(own.mean()),
        "corpus_gold_90": float(np.quantile(own, 0.9)),
        "constant": earned,
        "constant_text": world.decode(text),
    }


def finish(config, done):
    """Writes results.json and report.md, and prints them; returns the folder."""
    records = done.records
    results = {"worlds": records, "fit": fitness(records), "wall_seconds": done.wall}
    files.write_json(done.folder / "results.json", results)
    page = "\n\n".join(_page(records, results["fit"])) + "\n"
    made = provenance.summary(config) | {"command": provenance.command()}
    lines = [f"- {name}: {value}" for name, value in made.items()]
    files.write(done.folder / "report.md", page + "\n" + "\n".join(lines) + "\n")
    ends = (str(done.folder / "report.md"), f"done in {progress.duration(done.wall)}")
    experiment.say(done.console, (page, *ends))
    return done.folder


def fitness(records):
    """{what must hold: in how many worlds it does}."""
    low, high = _STARTS
    counts = {
        f"skills start at {low:g} to {high:g}": [
            low <= r["skills"] <= high for r in records
        ],
        "no constant text reaches the corpus's 90th percentile of gold": [
            r["constant"] < r["corpus_gold_90"] for r in records
        ],
    }
    if "ppo" in records[0]:
        for name, label in (("ppo", "PPO"), ("ppo_kl", "PPO + KL")):
            counts[f"{label} over-optimises"] = [
                over_optimised(r[name]) for r in records
            ]
    return {name: int(np.sum(held)) for name, held in counts.items()}


def _page(records, fit):
    yield "# Worlds"
    rows = [[markdown.number(r[key]) for _, key in _COLUMNS] for r in records]
    yield markdown.table([title for title, _ in _COLUMNS], rows)
    for name, count in fit.items():
        yield f"- {name}: {count} of {len(records)} worlds"
    if "ppo" in records[0]:
        yield "## The contract"
        yield markdown.table(
            ["world", "method", "gain of proxy (sd)", "gold by step", "over-optimised"],
            [_contract_row(r, name) for r in records for name in ("ppo", "ppo_kl")],
        )


def _contract_row(record, name):
    rows = record[name]
    gain = rows[-1]["reward"] - rows[0]["reward"]
    gold = ", ".join(markdown.number(row["gold"]) for row in rows)
    said = "yes" if over_optimised(rows) else "no"
    return [record["world"], name, markdown.number(gain), gold, said]


@contextlib.contextmanager
def _pool(processes):
    """Processes of one thread each; they read the environment when they start."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)
    spawn = multiprocessing.get_context("spawn")
    try:
        with concurrent.futures.ProcessPoolExecutor(max(processes, 1), spawn) as pool:
            yield pool
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _file(folder, world):
    return pathlib.Path(folder) / "worlds" / f"{world}.json"


EXPERIMENT = experiment.Experiment(
    name="worlds",
    check=options.check,
    study=lambda config, setting: range(
        config.first_world, config.first_world + config.worlds
    ),
    announce=announce,
    finish=finish,
    run=measure_all,
)
main, run = experiment.entry_points(EXPERIMENT, CONFIG, __doc__)

if __name__ == "__main__":
    main()
