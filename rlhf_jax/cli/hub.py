"""What a recipe does with its exported model: a model card, and --push-to-hub."""

import dataclasses

from flax import traverse_util

from rlhf_jax.cli import experiment
from rlhf_jax.data import stop_tokens
from rlhf_jax.huggingface import model_card
from rlhf_jax.models import heads
from rlhf_jax.runtime import provenance

_NAMED = ("model", "policy", "dataset", "reward", "gold")  # said elsewhere
_ALWAYS = ("seed", "dtype", "fit.learning-rate", "fit.rows", "rl.learning-rate",
           "rl.rows", "lora.rank")  # fmt: skip


def publishing(recipe):
    """A recipe that also writes a model card, and pushes where its flags ask for it."""

    def check(config):
        recipe.check(config)
        check_flags(config)

    def finish(config, done):
        result = recipe.finish(config, done)
        for one in result.seeds or (result,):
            model_card.write(one.model_folder, facts(config, done, one))
        if config.push_to_hub is not None:
            push(config, result.model_folder, done.console)
        return result

    return dataclasses.replace(recipe, check=check, finish=finish)


def check_flags(config):
    """Raises ValueError where nothing could be pushed: before anything is loaded."""
    import huggingface_hub
    from huggingface_hub import constants

    name = config.push_to_hub
    if name is None:
        if config.hub_private:
            raise ValueError("--hub-private without --push-to-hub: give it a NAME")
        return
    fault = model_card.name_fault(name)
    if fault is not None:
        raise ValueError(f"--push-to-hub {name}: no name on the hub: {fault}")
    if constants.HF_HUB_OFFLINE:
        raise ValueError(f"--push-to-hub {name}: HF_HUB_OFFLINE is set; unset it")
    if huggingface_hub.get_token() is None:
        raise ValueError(
            f"--push-to-hub {name}: there is no token of the hub: `hf auth login`, or "
            "set HF_TOKEN"
        )


def push(config, folder, console):
    """Uploads a model directory. Raises ValueError, in one line, if that fails."""
    import huggingface_hub

    name, private = config.push_to_hub, True if config.hub_private else None
    try:
        api = huggingface_hub.HfApi()
        url = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=getattr(url, "repo_id", name),
            folder_path=folder,
            commit_message=f"Trained with {provenance.program()}",
        )
    # The hub, its client and the network below it raise errors of many kinds.
    except Exception as error:
        reason = _without_token(" ".join(str(error).split()) or type(error).__name__)
        raise ValueError(
            f"--push-to-hub {name} failed: {reason}; the run is whole, and "
            f"`hf upload {name} {folder}` pushes its model"
        ) from None
    experiment.say(console, [f"pushed to {url}"])


def _without_token(text):
    import huggingface_hub

    token = huggingface_hub.get_token()
    return text.replace(token, "(token)") if token else text


def facts(config, done, result):
    """The `model_card.Facts` of a finished run."""
    scores = isinstance(result.model, heads.Classifier)
    (method,) = done.study.methods
    base = getattr(config, "policy", None) or config.model
    end = None
    if scores and getattr(config, "ended", True):
        ids = stop_tokens.end_id(result.tokenizer)
        end = result.tokenizer.convert_ids_to_tokens(ids)
    return model_card.Facts(
        name=config.push_to_hub or f"{method}-{done.folder.name}",
        base=None if base.startswith("model given in Python") else base,
        data=config.dataset,
        reward=_reward(config),
        method=method_of(config, done.study),
        scores=scores,
        end=end,
        settings=settings(config),
        numbers=numbers(result),
        steps=done.study.schedule.steps,
        command=provenance.command(),
        versions={"rlhf_jax": provenance.commit(), **provenance.versions()},
        tags=("reward-model" if scores else "alignment", method),
    )


def method_of(config, study):
    """The method's name, with its β and its resets."""
    ((key, method),) = study.methods.items()
    said = method.label if key in method.label.lower() else f"{method.label} ({key})"
    beta = getattr(config, "beta", None)
    rl, resets = getattr(config, "rl", None), getattr(config, "elastic_reset", None)
    if rl is not None:
        if resets:
            said += f", resets every {rl.reset_every} steps, EMA decay {rl.decay:g}"
    elif getattr(resets, "every", 0):
        said += f", Elastic Reset every {resets.every}, EMA decay {resets.decay:g}"
    if beta is not None and "β" not in said:
        said += f", β {beta:g}" if beta else ", no KL penalty"
    return said


def settings(config):
    """{flag: value} of those that matter most, and those that are not the default."""

    def flat(x):
        flags = traverse_util.flatten_dict(provenance.computed(x), sep=".")
        return {name.replace("_", "-"): value for name, value in flags.items()}

    given, usual = flat(config), flat(type(config)())
    return {
        name: value
        for name, value in given.items()
        if name not in _NAMED and (name in _ALWAYS or value != usual[name])
    }


def _reward(config):
    """What pays, in a line; None where nothing does."""
    reward = getattr(config, "reward", None)
    return reward if isinstance(reward, str | None) else " + ".join(reward)


def numbers(result):
    """{measure: (before, after)} of held-out rows, of the policy that is exported."""
    first = next(record for record in result.records if "eval/phase" in record)
    last = result.metrics
    return {
        name.removeprefix("eval/"): (first[name], last[name])
        for name in last
        if "/" in name
        and not name.endswith(("_a", "_b"))  # halves, for the error
        and all(isinstance(x.get(name), int | float) for x in (first, last))
    }
