"""A study of language models from flags, for sentiment, StackLLaMA and sweeps."""

import functools
import math

from rlhf_jax import elastic_reset, huggingface
from rlhf_jax.cli import experiment, options
from rlhf_jax.huggingface import adapters as hf_adapters
from rlhf_jax.models import lora
from rlhf_jax.runtime import processes, provenance
from rlhf_jax.studies import (
    eval_steps,
    evaluators,
    methods,
    policy_gradient,
    runner,
    search,
    tables,
    values,
)
from rlhf_jax.studies.interfaces import Run, Schedule, Selection, Study, Unit

SHOWN = {
    "reward": "objective/scores",
    "kl": "objective/kl",
    "drift": "drift/text_nll",
}
_ROOM = 1.0  # nats of text NLL above π₀ within which an early stop is worth anything


def worth(now, start):
    """What an early stop maximises: gain × room left before the drift corner.

    The hypervolume of one point, on validation half A, with the proxy reward.
    """
    reward, drift = "eval/reward_a", "drift/text_nll_a"
    room = _ROOM - (now[drift] - start[drift])
    return max(now[reward] - start[reward], 0.0) * max(room, 0.0)


SELECTION = Selection(("eval/reward_a", "drift/text_nll_a"), worth)


def study(config, tasks, table=methods.METHODS, *, tuned=None, say=lambda line: None):
    """The `interfaces.Study` that the flags of a language-model experiment ask for.

    Args: config: flags `rl`, `lora`, `methods`, `seeds`, `steps`, ...; tasks: {world:
    `task.Task`}, or one task for all; table: all methods there are; tuned: {method:
    Values}, by default what --tuned names; say(line): hears which methods are left
    out, and why.
    """
    tasks = tasks if isinstance(tasks, dict) else {0: tasks}
    task = next(iter(tasks.values()))
    rl, tuned = config.rl, values.read(config.tuned) if tuned is None else tuned
    asked = tables.overrides(config.override, table)
    names = _possible(config, task, table, asked, tuned, say)
    chosen = rows(config, names, table, asked, tuned)
    settings = policy_gradient.Settings(
        algorithm=options.algorithm(
            rl,
            sampling=task.sampling,
            keep_initial_value=any(map(_resets_value, chosen.values())),
        ),
        hyper=options.hyper(rl, config.steps),
        rows=rl.rows,
        candidates=rl.candidates,
        decay=rl.decay,
        adapter=lora.adapter(config.lora, task.params),
        sft_learning_rate=rl.sft_learning_rate,
        sft_updates=rl.sft_updates,
    )
    _check(chosen, settings)
    usual, test = evaluators.of_worlds(tasks)
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    return Study(
        methods=chosen,
        units=tuple(Unit(world, seed) for world in tasks for seed in seeds),
        schedule=schedule(config),
        evaluators=usual,
        initial=policy_gradient.initial,
        task=task,
        tasks=tasks if len(tasks) > 1 else {},
        settings=settings,
        at_start=test,
        at_end=test,
        select=SELECTION,
        budget=functools.partial(policy_gradient.budget, settings),
        shown=SHOWN,
        digest=values.digest(provenance.digest(config), tuned),
    )


def _check(chosen, settings):
    """Raises ValueError where a method cannot have the flags of the study: before the
    first of them runs, not when its turn comes."""
    for row in chosen.values():
        if isinstance(row.train, policy_gradient.PolicyGradient):
            row.train.config(settings)


def rows(config, names, table, asked, tuned):
    """{method: its row}, with the settings that flags and a search gave it alone."""
    changed = tables.with_overrides(table, {k: asked[k] for k in asked if k in names})
    changed = tables.with_values(changed, {k: tuned[k] for k in tuned if k in names})
    return tables.rows(names, changed)


def schedule(config):
    """When the runs of a study evaluate, reset and save."""
    rl, steps = config.rl, config.steps
    if config.num_evals:
        evaluations = eval_steps.by_count(steps, config.num_evals)
    else:
        evaluations = eval_steps.alike(
            steps,
            config.eval_every,
            reset_every=rl.reset_every,
            reset_first=rl.reset_first,
        )
    return Schedule(
        steps=steps,
        evaluations=evaluations,
        reset_every=rl.reset_every,
        reset_first=rl.reset_first,
        save_every=config.save_every,
        keep=config.keep,
    )


def _resets_value(method):
    return getattr(method.train, "hyper", {}).get("reset_value", False)


def _possible(config, task, table, asked, tuned, say):
    """Names of the methods asked for that can be told apart and rewarded here."""
    chosen = []
    for name in tables.choose(config.methods, table):
        method = table[name]
        lacking = _lacking(method, task, table)
        if lacking:
            say(f"{name} is left out: there {lacking} here")
        elif method.twin in chosen and all(
            settings.get(name) == settings.get(method.twin)
            for settings in (asked, tuned)
        ):
            say(
                f"{name} is left out: it is {method.twin}, unless --override or "
                "--tuned tells them apart"
            )
        else:
            chosen.append(name)
    return tuple(chosen)


def _lacking(method, task, table):
    """What a method, or a run that it reads, needs and the task has not; or ""."""
    missing = [field for field in method.needs if getattr(task, field) is None]
    if missing:
        return f"are no {missing[0]}"
    if method.train is not None and method.reward not in task.rewards:
        return f"is no {method.reward} reward"
    source = table.get(method.source)
    return "" if source is None else _lacking(source, task, table)


def check(config, table=methods.METHODS):
    """Raises ValueError for misuse that can be told before anything is made."""
    options.check(config)
    if not config.methods:
        raise ValueError("--methods: name one or more of them, or all")
    chosen = tables.choose(config.methods, table)
    for name in tables.choose(config.export, table):
        if name not in chosen:
            raise ValueError(
                f"--export {name}: is not among --methods {' '.join(config.methods)}"
            )
        if table[name].measure is not None:
            raise ValueError(f"--export {name}: it has no weights of its own")
    asked = tables.overrides(config.override, table)
    chosen = rows(config, chosen, table, asked, values.read(config.tuned))
    eval_steps.check_resets(schedule(config), chosen, config.num_evals)
    rl = config.rl
    compares = any(getattr(m.train, "compares", False) for m in chosen.values())
    check_turns(config, rl.candidates if compares else 1)
    for name, method in chosen.items():
        if getattr(method.train, "compares", False) and rl.rows % rl.candidates:
            raise ValueError(
                f"--rl.candidates {rl.candidates}, --rl.rows {rl.rows}: {name} draws "
                "as many samples of every prompt; choose a divisor"
            )


def check_turns(config, candidates):
    """Raises ValueError for a --rl.rows-per-slot that has no place in the layout, or
    leaves no slots for the candidates of a prompt."""
    rl = config.rl
    said = f"--rl.rows-per-slot {rl.rows_per_slot}"
    if rl.rows_per_slot > 1 and config.layout != "data":
        raise ValueError(
            f"{said}, --layout {config.layout}: the rows of a mesh cannot take turns "
            "across its devices; leave one of them out"
        )
    runs = getattr(config, "population", 1)
    if rl.rows_per_slot > 1 and runs > 1:
        raise ValueError(
            f"{said}, --population {runs}: runs side by side would take turns at "
            "different times; leave one of them out"
        )
    most = rl.rows // candidates
    if rl.rows_per_slot > max(most, 1):
        raise ValueError(
            f"{said}, --rl.rows {rl.rows}, --rl.candidates {candidates}: no slots "
            f"would be left for the responses to a prompt; choose at most {most}"
        )


def notes(config, study):
    """What a reader must know of resets, evaluations and tuning, for the report."""
    lines, rl = [], config.rl
    if any(method.is_reset for method in study.methods.values()):
        weight = elastic_reset.retained_weight(rl.decay, rl.reset_every)
        lines.append(
            f"Resets every {rl.reset_every} iterations, EMA decay {rl.decay:g}: the "
            f"retained weight w = 1 − decay^every is {weight:.2g}."
        )
        if not config.num_evals and math.gcd(config.eval_every, rl.reset_every) > 1:
            lines.append(
                f"The evaluation interval {config.eval_every} and the reset interval "
                f"{rl.reset_every} share a factor: besides the two sides of resets, "
                "few points of a cycle are seen."
            )
    tuned = values.read(config.tuned)
    if tuned:

        def flags(name):
            return search.flags(name, study.methods, tuned[name], rl)

        listed = tables.listed(study.methods)
        lines.append(search.note(config.tuned, tuned, listed, flags))
    return lines


def export(config, done):
    """Model directories of the methods that --export names; of adapters besides."""
    study, layout = done.study, done.layout
    task, adapter = study.task, study.settings.adapter
    initial = processes.to_numpy(task.params) if config.export else None
    for name in config.export:
        run = Run(name, study.units[0])
        policy = runner.policy(study, done.folder, layout, run, console=done.console)
        policy = processes.to_numpy(policy)
        if not processes.first():
            continue
        folder = done.folder / "models" / name
        if adapter is not None:
            beside = folder.with_name(f"{name}-adapters")
            base = None if config.policy.startswith("scratch:") else config.policy
            hf_adapters.save(beside, task.model, policy, adapter, base=base)
            experiment.say(done.console, [f"saved {beside}"])
            policy = lora.merge(initial, policy, scale=adapter.scale)
        huggingface.save(folder, task.model, policy, task.tokenizer)
        experiment.say(done.console, [f"saved {folder}"])
