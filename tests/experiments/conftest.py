"""What tests of whole runs share: small models and files, and compiled programs."""

import pytest
import small_recipes


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Programs are compiled once for all runs of a file."""
    with small_recipes.programs(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """`small_recipes.home`, from which modules can be imported."""
    home = small_recipes.home(tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(home)
        yield home
