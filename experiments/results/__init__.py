"""What the project quotes: kept results, and the texts that READMEs make of them.

    python -m experiments.results                       # write the numbers of READMEs
    python -m experiments.results --keep runs/sentiment/<time> --name sentiment

A README marks what is made from files, a table or a number in a sentence:

    <!-- quoted: NAME -->made<!-- end -->

NAME is a function of `quotes`. A test makes every such text again.
"""

import json
import pathlib
import re
from typing import NamedTuple

from rlhf_jax.evaluation import preference_sets, units
from rlhf_jax.reporting import preference_sets as pages
from rlhf_jax.reporting import recorded
from rlhf_jax.runtime import files

FOLDER = pathlib.Path(__file__).parent
READMES = (
    FOLDER.parents[1] / "README.md",
    FOLDER.parent / "README.md",
    FOLDER / "README.md",
)
MARK = re.compile(r"(<!-- quoted: ([\w.]+) -->)(.*?)(<!-- end -->)", re.DOTALL)


class Ends(NamedTuple):
    """Final values alone, of runs whose evaluation points were not kept."""

    about: dict
    initial: dict  # {endpoint: the initial policy's value}
    methods: dict  # {method: {endpoint: {unit: value}}}


def load(name):
    """A kept result: `recorded.Recorded`, or `Ends`."""
    path = FOLDER / f"{name}.json"
    data = json.loads(path.read_text())
    if "runs" in data:
        return recorded.load(path)
    methods = {
        method: {
            endpoint: {units.parse(unit): value for unit, value in by_unit.items()}
            for endpoint, by_unit in ends.items()
        }
        for method, ends in data["ends"].items()
    }
    return Ends(data["about"], data["initial"], methods)


def sizes(kept):
    """{"worlds", "seeds"}: how many units a kept result is of, as `markdown.units`
    prints them. kept: of `load`."""
    if isinstance(kept, recorded.Recorded):
        return {name: kept.summary[name] for name in ("worlds", "seeds")}
    seen = {u for m in kept.methods.values() for v in m.values() for u in v}
    worlds, seeds = ({unit[i] for unit in seen} for i in (0, 1))
    return {"worlds": len(worlds), "seeds": len(seeds)}


def keep_report(path, folders, note=""):
    """Keeps finished runs whose results.json is all there is: worlds, a sweep."""
    made = json.loads((folders[0] / "results.json").read_text())
    kept = recorded.rounded({"about": recorded.about(folders, note), **made})
    files.write(path, json.dumps(kept, indent=1) + "\n")


def keep_comparisons(path, folders, note=""):
    """Keeps finished comparisons of two models, every item of theirs with them.

    folders: of experiments.alignment_tax --before --after; the last parts of their
    paths are the alignments' names.
    """
    made = {
        folder.name: json.loads((folder / "results.json").read_text())
        for folder in folders
    }
    about = {"note": note} if note else {}
    kept = {"about": about, "comparisons": made}
    files.write(path, json.dumps(recorded.rounded(kept), separators=(",", ":")) + "\n")


def keep_tests(path, folders, note=""):
    """Keeps what reward models scored in their tests, pair by pair, and what that says.

    folders: of finished runs of experiments.reward_model with --test; the last parts of
    their paths are the models' names. Draws their reliability beside it.
    """
    models = {}
    for folder in folders:
        made = json.loads((folder / "config.json").read_text())
        asked = {k: made["config"][k] for k in ("model", "dataset", "chat", "lora")}
        sets = json.loads((folder / "tests.json").read_text())
        found = recorded.rounded(preference_sets.measure_all(sets))
        models[folder.name] = {**asked, "tests": found, "sets": sets}
    kept = {"about": recorded.about(folders, note), "models": models}
    files.write(path, json.dumps(kept, separators=(",", ":")) + "\n")
    every = {
        f"{model}, {name}": measured
        for model, one in models.items()
        for name, measured in one["tests"]["sets"].items()
    }
    picture = path.with_name(f"{path.stem}_reliability.png")
    title = "Reward models: are they as sure as they are right?"
    pages.draw({"sets": every}, picture, title)


def tests(name):
    """{model: what `preference_sets.measure_all` says} of kept tests."""
    return {k: one["tests"] for k, one in report(name)["models"].items()}


def report(name):
    """A kept results.json, with "about" besides."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def measured():
    """{name: numbers} that no run of a study holds: times, sizes, counts of tests."""
    return json.loads((FOLDER / "measured.json").read_text())


def renewed(text, quotes):
    """A README with every marked text made again. quotes: {name: text}.

    Raises KeyError for a name that nothing makes.
    """

    def make(match):
        made = quotes[match[2]]
        inline = "\n" not in match[3]
        return match[1] + (made if inline else f"\n\n{made}\n\n") + match[4]

    return MARK.sub(make, text)
