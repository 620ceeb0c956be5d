"""What can a model do? Suites from files, and tasks of lm-evaluation-harness.

    python -m rlhf_jax.benchmarks --model path/to/model \\
        --suites data/arc_easy:test data/gsm8k:test --count 200
    python -m rlhf_jax.benchmarks --model path/to/model --tasks arc_easy hellaswag
"""

import argparse
import json
import sys

from rlhf_jax import huggingface
from rlhf_jax.benchmarks import suites
from rlhf_jax.models import decoder
from rlhf_jax.runtime import files, terminal


def main(arguments=None):
    options = parse(arguments)
    terminal.without_word_of_torch()
    try:
        results = run(options)
    except (ImportError, ValueError) as error:
        sys.exit(f"error: {error}")
    if options.output is not None:
        files.write(options.output, json.dumps(results, indent=1, default=str) + "\n")


def run(options):
    """{"suites": {name: metrics}, "tasks": {name: metrics}}, printed as it is found."""
    if not options.suites and not options.tasks:
        raise ValueError("nothing to measure: give --suites or --tasks")
    asked = suites.read(options.suites, count=options.count)
    model, params, tokenizer = huggingface.load(options.model)
    if not isinstance(model, decoder.Decoder):
        raise ValueError(f"--model {options.model}: a classifier writes no answers")
    if options.chat:
        asked = suites.chat(asked, tokenizer)
    length = min(options.length or model.config.max_length, model.config.max_length)
    results = {"suites": {}, "tasks": {}}
    for name, suite in asked.items():
        rows = suites.tokens({name: suite}, tokenizer, length=length)
        found = suites.measure(model, params, rows, normalize=options.normalize)[name]
        results["suites"][name] = {"headline": found.headline, **found.metrics}
        facts = suites.facts(rows)[name]
        print(f"{name}: {_line(results['suites'][name])}  ({facts})", flush=True)
    if options.tasks:
        from rlhf_jax.benchmarks import harness

        found = harness.evaluate(
            model, params, tokenizer, options.tasks, include=options.include,
            chat=options.chat, limit=options.count, num_fewshot=options.shots,
        )  # fmt: skip
        results["tasks"] = found["results"]
        for name, metrics in found["results"].items():
            print(f"{name}: {_line(metrics)}")
    return results


def _line(metrics):
    """The headline, if there is one, and the other numbers."""
    first = metrics.get("headline")
    names = sorted(metrics, key=lambda name: name != first)
    numbers = {name: metrics[name] for name in names if name != "headline"}
    return "  ".join(
        f"{name} {number:.4g}"
        for name, number in numbers.items()
        if isinstance(number, float | int)
    )


def parse(arguments=None):
    """The flags, by default those of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhf_jax.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="a model directory, or a name on the hub")
    add(
        "--suites",
        nargs="+",
        default=[],
        metavar="PATH[:SPLIT]",
        help="data sets with right answers; the split is test by default",
    )
    add(
        "--tasks",
        nargs="+",
        default=[],
        metavar="NAME",
        help="tasks of lm-evaluation-harness (the extra eval)",
    )
    add("--include", metavar="DIR", help="a folder of YAML tasks of your own")
    add("--count", type=int, default=200, help="questions of each, at most")
    add("--shots", type=int, help="examples before a question of --tasks")
    add("--length", type=int, help="tokens of a row; the model's context by default")
    add(
        "--normalize",
        choices=tuple(suites.NORMALIZE),
        default="characters",
        help="what divides the log-likelihood of an option",
    )
    add("--chat", action="store_true", help="ask in the tokenizer's chat template")
    add("--output", metavar="FILE", help="write all metrics as JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
