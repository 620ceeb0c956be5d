"""What a labelling job will ask, before it asks: calls, tokens, money."""

from rlhf_jax.data import tokenization
from rlhf_jax.feedback import endpoint, judging, prompts
from rlhf_jax.feedback import prices as money
from rlhf_jax.reporting import markdown


def texts(rows, template, config, wrap):
    """(prompts that rationales follow, prompts that labels follow), both orders.

    The second lack the rationales, which nobody has written yet. Raises ValueError
    where the template cannot be asked so.
    """

    def made(make):
        how = {"shots": config.shots, "wrap": wrap}
        asked = judging.in_both_orders(rows.pairs)
        return [judging.text(make, template, values, **how) for *_, values in asked]

    asks = made(prompts.ask_rationale) if config.chain_of_thought else []
    return asks, made(prompts.render)


def calls(rows, config):
    """The number of answers that the job needs."""
    each = 2 * config.samples if config.chain_of_thought else 1
    return 2 * len(rows.pairs) * each


def estimate(asks, reads, template, config, way, count=None):
    """`endpoint.Estimate` of the whole job, read in one of `endpoint`'s ways."""
    prices, decoding = config.limits.prices, config.decoding
    how = {"prices": prices, "count": count}
    found = endpoint.estimate(reads, template.labels, way=way, **how)
    parts = [found]
    if config.chain_of_thought:
        # Each of the rationales is read again, with its label after it.
        written = endpoint.estimate(asks, decoding, **how)
        read = written.completion_tokens
        again = endpoint.Estimate(0, read, 0, money.cost(prices, read, 0))
        parts = [written, again, found] * config.samples
    return endpoint.Estimate(*map(sum, zip(*parts, strict=True)))


def lines(rows, spec, template, config, tokenizer, wrap):
    """The estimate in lines for people."""
    asks, reads = texts(rows, template, config, wrap)
    count = None
    if tokenizer is not None:

        def count(text):
            return len(tokenization.encode(tokenizer, [text])[0])

    ways = {"in one call a prompt": "top"}
    if spec.remote and spec.endpoint.kind == "chat":
        ways["by samples, without log-probs"] = "votes"
    elif spec.remote:
        ways["by echo, a call a label"] = "echo"
    said = [f"{markdown.count(len(rows.pairs), 'pair')}, each in both orders"]
    for name, way in ways.items():
        found = estimate(asks, reads, template, config, way, count)
        cost = f", {markdown.number(found.money)} in money"
        cost *= config.limits.prices is not None
        rough = "" if count is not None else "about "
        said.append(
            f"labels {name}: {markdown.integer(found.calls)} calls, "
            f"{rough}{markdown.integer(found.prompt_tokens)} tokens read and at most "
            f"{markdown.integer(found.completion_tokens)} written{cost}"
        )
    if count is None:
        said.append("tokens are estimated from above, a token for three bytes")
    return said
