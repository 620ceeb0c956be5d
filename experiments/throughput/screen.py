"""What was measured, as tables on the screen."""

import rich.table

from rlhf_jax.reporting import markdown

COLUMNS = {  # of the table: (key of an entry, scale, heading)
    "iteration_seconds": (1, "iteration s"),
    "generate_tokens_per_second": (1, "generate tok/s"),
    "train_tokens_per_second": (1, "train tok/s"),
    "iteration_utilisation": (100, "of peak %"),
    "decode_bandwidth_share": (100, "decode of bandwidth %"),
    "bookkeeping_share": (100, "EMA + reset %"),
    "peak_gib": (1, "peak GiB"),
}


def show(results, console):
    """Prints the table of all entries and the speed relative to each peer."""
    heads = [heading for _, heading in COLUMNS.values()]
    table = rich.table.Table("workload", "who", *heads)
    for name, entry in results["workloads"].items():
        for who, facts in entry.items():
            if who != "ratios":
                numbers = [
                    markdown.number(facts.get(key), scale)
                    for key, (scale, _) in COLUMNS.items()
                ]
                table.add_row(name, f"{who} ({facts['algorithm']})", *numbers)
    console.print(table)
    for name, entry in results["workloads"].items():
        for peer, parts in entry.get("ratios", {}).items():
            speeds = ", ".join(
                f"{part} {r['median']:.2f} ({r['low']:.2f} to {r['high']:.2f}; "
                f"in processor time {r['cpu']:.2f})"
                for part, r in parts.items()
            )
            line = f"{name}: times as fast as {peer}: {speeds}"
            console.print(line, highlight=False, soft_wrap=True)


def show_rates(entries, console, rate, base):
    """Prints the rate of each operation, and how it compares to that of `base`."""
    unit = {"gib_per_second": "GiB/s", "tokens_per_second": "tokens/s"}[rate]
    table = rich.table.Table("operation", "seconds", unit, f"of a {base}'s", "range")
    for name, facts in entries.items():
        shares = [
            markdown.number(facts[f"of_{base}"][k]) for k in ("median", "low", "high")
        ]
        numbers = [markdown.number(facts[k]) for k in ("seconds", rate)]
        table.add_row(name, *numbers, shares[0], f"{shares[1]} to {shares[2]}")
    console.print(table)


def show_members(races, console):
    """Prints the table of `population.sweep`."""
    heads = ("runs", "compile s", "GiB a device", "one program s", "in turn s", "ratio")
    table = rich.table.Table(*heads)
    for one in races:
        times = one["compile_seconds"]["together"], one["device_gib"]
        times += one["together_seconds"], one["apart_seconds"]
        ratio = one["times_as_fast"]
        between = f"{ratio['low']:.2f} to {ratio['high']:.2f}"
        row = [str(one["members"]), *map(markdown.number, times)]
        table.add_row(*row, f"{ratio['median']:.2f} ({between})")
    console.print(table)
