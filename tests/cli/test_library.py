"""Keywords to a config, and objects to the names that config.json holds for them."""

import dataclasses
import functools
import json
import pathlib

import datasets
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from rlhf_jax.cli import command, library
from rlhf_jax.runtime import parallel, provenance

ROWS = [{"prompt": f"Say {i}", "word": i} for i in range(5)]


@dataclasses.dataclass(frozen=True)
class Inner:
    steps: int = 3
    rate: float = 1e-6


@dataclasses.dataclass(frozen=True)
class Config:
    model: str = ""
    dataset: str = ""
    reward: str = ""
    seed: int = 0
    resume: bool = False
    targets: tuple[str, ...] = ("query", "value")
    inner: Inner = dataclasses.field(default_factory=Inner)


def short(completions, **columns):
    return [-len(text) for text in completions]


# Keywords


def test_keywords_change_what_they_name_and_groups_keep_their_defaults():
    config = library.configure(
        Config(), {"seed": 3, "inner": {"steps": 9}, "targets": ["up"]}
    )
    assert config == Config(seed=3, inner=Inner(9, 1e-6), targets=("up",))
    whole = library.configure(Config(), {"inner": Inner(rate=0.5)})
    assert whole.inner == Inner(3, 0.5)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"sed": 1}, "sed: there is no such flag; did you mean seed"),
        ({"inner": {"step": 1}}, "step: there is no such flag; did you mean steps"),
        ({"zzz": 1}, r"zzz: there is no such flag; choose from \['model'"),
    ],
)
def test_a_keyword_that_is_no_flag_is_named(flags, said):
    with pytest.raises(ValueError, match=said):
        library.configure(Config(), flags)


# Names


def test_a_config_without_objects_is_itself():
    config = Config(model="there", seed=2)
    assert library.names(config) is config


def test_rows_are_called_by_their_content():
    name = library.names(Config(dataset=ROWS)).dataset
    assert name.startswith("5 rows given in Python (")
    again = [dict(reversed(row.items())) for row in ROWS]
    assert library.names(Config(dataset=again)).dataset == name
    other = [*ROWS[:4], {"prompt": "Say 4", "word": 5}]
    assert library.names(Config(dataset=other)).dataset != name
    rows = datasets.Dataset.from_list(ROWS)
    named = library.names(Config(dataset=rows)).dataset
    assert named.startswith("5 rows given in Python (")
    assert library.names(Config(dataset=rows.select(range(5)))).dataset == named
    assert library.names(Config(dataset=rows.shuffle(seed=1))).dataset != named


def test_functions_are_called_by_where_they_are_defined():
    named = library.names(Config(reward=short)).reward
    assert named == f"{__name__}:short"
    part = functools.partial(short, weight=2)
    assert library.names(Config(reward=part)).reward == named

    class Judge:
        def __call__(self, completions):
            return [0.0] * len(completions)

    assert library.names(Config(reward=Judge())).reward.endswith("Judge")


def test_models_are_called_by_their_weights():
    params = tiny.policy_params(tiny.DECODER)
    given = (tiny.DECODER, params, None)
    name = library.names(Config(model=given)).model
    assert name.startswith("model given in Python (")
    assert library.names(Config(model=given)).model == name
    other = {**params, "extra": jnp.ones(1)}
    assert library.names(Config(model=(tiny.DECODER, other, None))).model != name


def test_paths_and_results_are_called_by_their_place(tmp_path):
    assert library.names(Config(model=tmp_path)).model == str(tmp_path)
    result = library.Result(None, {}, None, pathlib.Path("runs/x"), {}, [])
    assert library.names(Config(model=result)).model == "runs/x/model"


def test_config_json_and_digests_take_the_names(tmp_path):
    config = library.names(Config(dataset=ROWS, reward=short))
    command.write_config(tmp_path, config, parallel.data(1))
    facts = json.loads((tmp_path / "config.json").read_text())
    assert facts["config"]["reward"] == f"{__name__}:short"
    assert facts["config"]["dataset"] == config.dataset
    assert facts["digest"] == provenance.digest(config)
    assert provenance.digest(library.names(Config(dataset=ROWS[:4]))) != facts["digest"]


def test_numbers_of_numpy_are_numbers():
    named = library.names(
        Config(seed=np.int32(3), inner=Inner(np.int64(5), np.float32(0.5)))
    )
    assert named == Config(seed=3, inner=Inner(5, 0.5))
    assert type(named.seed) is int and type(named.inner.rate) is float
