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

from rlhf_jax.evaluation import units
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


def keep_report(path, folders, note=""):
    """Keeps finished runs whose results.json is all there is: worlds, a sweep."""
    made = json.loads((folders[0] / "results.json").read_text())
    kept = recorded.rounded({"about": recorded.about(folders, note), **made})
    files.write(path, json.dumps(kept, indent=1) + "\n")


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
