"""Settings of every test: they stand here because jax reads them once, at its start."""

import importlib.metadata
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Four devices for the layouts, which on a busy machine may wait long for each other;
# little optimisation, for most of the time is compiling.
_FLAGS = (
    "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=600 "
    "--xla_cpu_collective_timeout_seconds=600"
)
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # 40% less time to compile; a jaxlib that does not know a flag ends the process.
    _FLAGS += " --xla_cpu_use_fusion_emitters=false"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
# Queued collectives on few cores can wait for each other until they time out.
jax.config.update("jax_cpu_enable_async_dispatch", False)

ROOT = pathlib.Path(__file__).resolve().parent.parent


# A compiled program maps memory some sixteen times, and Linux allows a process 65,530
# mappings: one that holds too many programs dies while it compiles the next one.
_MAPPINGS, _MOST = pathlib.Path("/proc/self/maps"), 25_000


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    yield
    if _MAPPINGS.exists() and len(_MAPPINGS.read_bytes().splitlines()) > _MOST:
        jax.clear_caches()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def reports():
    """What a Checkpointer of `open_run` reported."""
    return []


@pytest.fixture
def open_run(tmp_path, reports):
    """config_digest -> a Checkpointer in the same folder each time."""
    from rlhf_jax.runtime import checkpoint

    def opened(config_digest="abc", **options):
        return checkpoint.Checkpointer(
            tmp_path / "run",
            config_digest=config_digest,
            report=reports.append,
            **options,
        )

    return opened


@pytest.fixture(scope="session")
def data_folder():
    """Real data: the folder RLHF_JAX_DATA names, or `shared/data` beside the clone."""
    default = ROOT.parent / "shared" / "data"
    folder = pathlib.Path(os.environ.get("RLHF_JAX_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set RLHF_JAX_DATA to a folder of it")
    return folder
