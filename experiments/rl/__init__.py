"""Reinforcement learning on your own prompts: PPO, REINFORCE, RLOO, GRPO and its
variants Dr. GRPO, DAPO and GSPO, REINFORCE++, rejection sampling, online DPO.

Rows hold a column `prompt`, a text or a list of messages; other columns reach a reward
function by name. The reward is a reward model's directory (one label, or the
probability of --label), a language model's rating of every completion (d-RLAIF; see
`tasks.judges`), or a Python function of your own, TRL's signature:

    # rewards.py
    def short(prompts, completions, **columns):
        return [-float(len(text)) for text in completions]

    python -m experiments.rl --policy path/to/sft --dataset prompts.jsonl \\
        --reward rewards:short --algorithm rloo
    python -m experiments.rl --policy path/to/sft --dataset prompts.jsonl \\
        --reward rewards:short rewards:polite runs/reward_model/<time>/model \\
        --reward-weights 1 0.5 2
    python -m experiments.rl --policy path/to/sft --dataset prompts.jsonl \\
        --reward runs/reward_model/<time>/model --elastic-reset --rl.reset-every 20
    python -m experiments.rl --policy path/to/sft --dataset prompts.jsonl \\
        --reward ai:path/to/labeler,template=helpful_rating --algorithm reinforce
    python -m experiments.rl --policy path/to/sft --dataset prompts.jsonl \\
        --reward runs/reward_model/<time>/model --gold path/to/larger_reward_model

Of several rewards the sum by --reward-weights is learned from, and each is logged as
rewards/<name>/mean and /std; a function returns None where it does not apply.

One method a run. The result is runs/rl/<time>/model, a directory that transformers
opens; report.md says what was gained and at what drift: NLL of human text (--texts, or
held-out completions or prompts) and exact KL from the policy as it was. A second
reward, --gold, is measured and never learned from: experiments.objective_mismatch --run
says whether the two part.

From Python, with rows as a list of dictionaries or a `datasets.Dataset`, and the reward
a function or what `reward_model.train` returned:

    result = rl.train(policy="path/to/sft", dataset=rows, reward=short, steps=20)
    result.params, result.metrics["eval/reward"]
"""

import dataclasses
from typing import Annotated, Literal

import jax

from experiments.rl import announcement, naming, tasks
from rlhf_jax import elastic_reset, ranges
from rlhf_jax.algorithms.policy_gradient import GROUPED
from rlhf_jax.cli import experiment, export, language, options, recipe, sampled
from rlhf_jax.models import lora
from rlhf_jax.reporting import several_rewards
from rlhf_jax.runtime import provenance
from rlhf_jax.studies import eval_steps, evaluators, policy_gradient
from rlhf_jax.studies.interfaces import Method, Study, never
from rlhf_jax.studies.trainable import Trainable
from rlhf_jax.tasks import prompt_rewards


@dataclasses.dataclass(frozen=True)
class Config(sampled.Sampling, options.Base):
    """Everything a run depends on."""

    essential = (
        "policy", "dataset", "reward", "gold", "algorithm", "steps", "rl.learning_rate",
        "rl.rows", "rl.candidates", "rl.minibatches", "rl.kl_coef", "rl.clip",
        "elastic_reset", "rl.reset_every", "rl.decay", "max_new_tokens", "temperature",
        "data.length", "lora.rank", "dtype", "seed", "eval_every", "save_every",
        "output", "resume",
    )  # fmt: skip
    policy: Annotated[str, ranges.Was("model")] = ""
    """A model directory, or a name on the hub."""
    dataset: str = ""
    """A hub name, a folder, or a file."""
    reward: str | tuple[ranges.Text, ...] = ""
    """One or several: a reward model's directory or hub name, module:function, an
    ensemble of models (mean:DIR+DIR, worst:..., uncertainty:..., warm:...; see
    `tasks.reward_ensembles`), or a labeler that rates:
    ai:WHERE[,template=NAME][,shots=N]..., WHERE a language model, an endpoint's URL
    (with model=NAME), or policy, the initial policy itself."""
    reward_weights: tuple[ranges.Finite, ...] = ()
    """One for each --reward, by which they are summed; by default 1 each."""
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = (
        "sum_then_normalize"
    )
    """normalize_then_sum: each reward is normalised among the completions of its prompt
    before the sum, and the sum over the batch (GDPO); with --algorithm grpo."""
    reward_timeout: ranges.NonNegative = 0.0
    """Seconds that one call of a reward function may take before the run stops; 0: no
    limit. With a limit it is called in a thread, where signal.alarm does not work."""
    gold: str = ""
    """A second reward, named as --reward is: what counts, as far as one can know. It is
    measured at every evaluation, and nothing learns from it."""
    algorithm: Literal[naming.ALGORITHMS] = "ppo"
    """grpo: advantages over the std of a group, loss averaged over each response, KL in
    the loss. dr_grpo: no std, loss averaged over the longest possible length, no KL.
    dapo: grpo clipped at 0.2 and 0.28, loss averaged over all tokens, no KL. gspo: grpo
    with ratios of responses, no KL. reinforce_plus_plus (_baseline): advantages
    whitened over the batch, no critic. Each sets --rl.loss-type, --rl.scale-rewards,
    --rl.importance-sampling-level, --rl.clip, --rl.clip-high and --rl.kl-in, which are
    flags of their own. rsf: likelihood of the best of --rl.candidates samples, no KL
    (RAFT). online_dpo: DPO on two fresh samples a prompt, the one that pays
    more is chosen."""
    elastic_reset: bool = False
    """Every --rl.reset-every iterations policy ← EMA, then EMA ← initial."""
    steps: ranges.Count = 100
    """Iterations."""
    eval_every: ranges.Natural = 20
    save_every: ranges.Natural = 20
    max_new_tokens: Annotated[ranges.Count, ranges.Was("response_length")] = 64
    """Tokens of a response, at most."""
    temperature: ranges.Positive = 1.0
    """Logits are divided by it before sampling."""
    label: ranges.Natural = 1
    """The class that pays, where the reward is a classifier of several."""
    texts: ranges.Text | None = None
    """Human text that drift is read on: a data set with a column text."""
    texts_split: ranges.Text = "train"
    """Split of --texts."""
    data: options.Data = dataclasses.field(default_factory=options.Data)
    """--data.length is of a prompt."""
    rl: options.RL = dataclasses.field(
        default_factory=lambda: options.RL(learning_rate=1e-5)
    )
    lora: options.Lora = dataclasses.field(default_factory=options.Lora)
    corner: options.Corner = dataclasses.field(default_factory=options.Corner)

    @property
    def method(self):
        """Its name in metrics.jsonl."""
        kl = "_kl" * naming.penalised(self)
        return self.algorithm + kl + "_elastic_reset" * self.elastic_reset

    @property
    def label_of_method(self):
        """Its name as pictures and tables print it."""
        return naming.label(self)

    @property
    def beta(self):
        """β of the KL penalty, or of DPO's objective; 0 where nothing is penalised."""
        paid = naming.penalised(self) or self.learns_pairs
        return self.rl.kl_coef if paid else 0.0

    @property
    def learns_pairs(self):
        """Whether it is online DPO."""
        return self.algorithm == "online_dpo"

    @property
    def candidates(self):
        """Samples a prompt."""
        if self.learns_pairs:
            return 2
        return self.rl.candidates if self.algorithm in GROUPED else 1

    @property
    def calendar(self):
        """The 0-based iterations that end with a reset."""
        every = self.rl.reset_every if self.elastic_reset else 0
        return elastic_reset.calendar(self.steps, every, at_zero=self.rl.reset_first)

    @property
    def rewards(self):
        """The names of --reward, one or several."""
        return prompt_rewards.listed(self.reward)

    @property
    def normalizes_rewards(self):
        """Whether each reward is normalised before the sum."""
        return self.multi_objective_aggregation == "normalize_then_sum"

    def conflicts(self):
        """Flags that contradict each other, and why."""
        yield from _reward_conflicts(self)
        yield from sampled.Sampling.conflicts(self)
        if self.learns_pairs and self.rl.importance_sampling_correction:
            reason = "DPO has no ratio to the sampler's probabilities; leave it out"
            yield ("algorithm", "rl.importance_sampling_correction"), reason
        if self.algorithm in GROUPED and self.rl.candidates < 2:
            reason = "it compares the candidates of a prompt: ask for 2 or more"
            yield ("algorithm", "rl.candidates"), reason
        if self.rl.rows % max(self.candidates, 1):
            reason = "every prompt has as many samples; choose a divisor"
            yield ("algorithm", "rl.rows", "rl.candidates"), reason
        if self.learns_pairs and not self.rl.kl_coef:
            reason = "β of DPO is --rl.kl-coef, and above 0"
            yield ("algorithm", "rl.kl_coef"), reason
        yield from naming.conflicts(self)
        if self.elastic_reset and not self.calendar:
            names = ("elastic_reset", "rl.reset_every", "steps")
            yield names, "no reset would ever come"
        if self.texts is None and self.texts_split != Config.texts_split:
            yield ("texts_split", "texts"), "there is nothing to take a split of"
        yield from options.evaluated_alike(self)
        yield from options.Base.conflicts(self)


def _reward_conflicts(config):
    if config.gold and config.gold in config.rewards:
        yield ("gold", "reward"), "a reward that is learned from is no gold"
    weights, names = config.reward_weights, ("reward", "reward_weights")
    if weights and len(weights) != len(config.rewards):
        counts = f"{len(config.rewards)} rewards and {len(weights)} weights"
        yield names, f"{counts}; give each its own"
    if weights and not any(weights):
        yield names, "nothing is learned from a weight of 0; give one another weight"
    if config.normalizes_rewards and config.algorithm != "grpo":
        names = ("multi_objective_aggregation", "algorithm")
        yield names, "it replaces the advantages of grpo"
    if config.normalizes_rewards and config.rl.scale_rewards is not None:
        names = ("multi_objective_aggregation", "rl.scale_rewards")
        yield names, "each reward has been scaled in its group already; leave it out"


CONFIG = Config()


def check(config):
    """Raises ValueError for misuse that the flags alone reveal."""
    options.check(config, needed=("policy", "dataset", "reward"))
    language.check_turns(config, config.candidates)
    prompt_rewards.check((*config.rewards, config.gold))


def batches(config):
    """The row counts that devices share out."""
    rl = config.rl
    parts = rl.minibatches * rl.micro_batches
    return rl.rows // parts, rl.rows // max(config.candidates, 1)


def make_study(config, setting):
    """The study of one run of one method."""
    rl, task = config.rl, tasks.make(config, setting)
    reward = task.rewards["proxy"](config.seed)
    statics = {
        "algorithm": config.algorithm,
        "candidates": config.candidates,
        "keep_average": config.elastic_reset,
    }
    settings = policy_gradient.Settings(
        algorithm=options.algorithm(rl, sampling=task.sampling, **statics),
        hyper=options.hyper(rl, config.steps),
        rows=rl.rows,
        candidates=config.candidates,
        decay=rl.decay,
        adapter=lora.adapter(config.lora, task.params),
    )
    method = Method(
        config.label_of_method,
        "the one method of this run",
        train=policy_gradient.PolicyGradient(static=statics | _summed(config)),
        resets=eval_steps.at_intervals if config.elastic_reset else never,
    )
    measures, _ = evaluators.language(task, key=jax.random.key(config.seed))
    schedule = recipe.schedule(
        config, config.steps, reset_every=rl.reset_every, reset_first=rl.reset_first
    )
    return Study(
        methods={config.method: method},
        units=recipe.units(config),
        schedule=schedule,
        evaluators=measures,
        task=task,
        settings=settings,
        shown=language.SHOWN,
        digest=provenance.digest(config),
        axes=prompt_rewards.axes_of(reward, dataclasses.asdict(config.corner)),
        sections=_sections(reward.parts),
        **recipe.selected(config, "reward"),
    )


def _sections(parts):
    """What the report says of several rewards."""
    if parts is None:
        return ()
    given = {"normalized": parts.normalized}
    return (several_rewards.section(parts.names, parts.weights, **given),)


def _summed(config):
    """Rewards that are normalised before the sum are advantages as they are."""
    return {"scale_rewards": "none"} if config.normalizes_rewards else {}


def finish(config, done):
    """Model directories, report, and the `library.Result`."""
    task = done.study.task
    trained = Trainable(task.params, done.study.settings.adapter)
    made = export.results(
        config,
        done,
        (task.model, task.tokenizer),
        lambda seed: trained,
        task.facts["base"],
    )
    notes = export.notes(config, done)
    experiment.say(done.console, notes)
    experiment.report(
        config,
        done,
        title=f"{config.method} on {config.dataset}",
        question="What was gained, and at what drift?",
        scope="these prompts and this policy",
        notes=(*notes, descriptive(config)),
    )
    return made


def descriptive(config):
    """What the numbers of so few seeds are."""
    what = "One run of one seed" if config.seeds == 1 else f"{config.seeds} seeds"
    return f"{what}: read it as descriptive."


RECIPE = experiment.Experiment(
    name="rl",
    check=check,
    study=make_study,
    announce=announcement.lines,
    finish=finish,
    batches=batches,
)
main, train, run = recipe.entry_points(RECIPE, CONFIG, __doc__)
