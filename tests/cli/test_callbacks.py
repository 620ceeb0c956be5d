"""Callbacks by name."""

import pytest

from rlhf_jax.cli import callbacks, library, options


def watch(step, metrics):
    return None


def test_functions_and_names_become_functions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "watching_by_name.py").write_text("def f(step, metrics): return 'stop'")
    found = callbacks.load((watch, "watching_by_name:f"))
    assert found[0] is watch and found[1](1, {}) == "stop"
    assert callbacks.load(watch) == (watch,)
    assert callbacks.load(()) == ()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("watch", "--callbacks watch: name a function as module:function"),
        (5, "--callbacks 5: name a function"),
        ("no_such_module:f", "--callbacks no_such_module:f: ModuleNotFoundError"),
        ("json:nothing", "--callbacks json:nothing: AttributeError"),
        ("json:__doc__", "--callbacks json:__doc__: is of type str; name a function"),
    ],
)
def test_what_is_no_function_is_named(name, said):
    with pytest.raises(ValueError, match=said):
        callbacks.load((name,))


def test_a_module_that_is_no_python_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "watching_badly.py").write_text("def f(:")
    with pytest.raises(ValueError, match="--callbacks watching_badly:f: SyntaxError"):
        callbacks.load("watching_badly:f")


def test_config_json_names_a_function():
    config = library.configure(options.Supervised(), {"callbacks": [watch, "m:f"]})
    assert config.callbacks[0] is watch
    assert library.names(config).callbacks == (f"{__name__}:watch", "m:f")
