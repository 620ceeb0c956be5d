"""Several hosts in one run: how they connect, agree, and exchange arrays.

Every host runs the same program on the same inputs; only the first one writes files.
With a single host these functions cost nothing and touch no device.
"""

import contextlib
import errno
import functools
import importlib.util
import json
import math
import os
import pathlib

import jax
import numpy as np
from jax.experimental import multihost_utils

_ERRORS = {"ValueError": ValueError, "OSError": OSError}
_MINUTES = 5  # for all hosts to connect
_TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")  # processes in a job step


def count():
    """How many hosts there are."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def first():
    """Whether this host is the one that writes files and prints."""
    return count() == 1 or jax.process_index() == 0


def join(coordinator=None, process_id=None, processes=None):
    """Connects the hosts of a run. Call it once, before the first computation.

    Without arguments the hosts are detected on SLURM, Open MPI and Cloud TPU.

    Args:
      coordinator: "host:port" of process 0; give all three arguments or none.
      process_id: the number of this process, from 0.
      processes: how many there are; 1 alone means this host by itself, on any cluster.
    Returns the number of hosts, or 0 where only jax knows it once it lists devices.
    Raises ValueError for arguments that do not fit together, or if the hosts do not
    connect in time.
    """
    given = {
        "coordinator": coordinator,
        "process-id": process_id,
        "processes": processes,
    }
    missing = [name for name, value in given.items() if value is None]
    if processes == 1 or (len(missing) == 3 and not _in_a_cluster()):
        return 1
    if missing and len(missing) < 3:
        raise ValueError(
            f"--distributed.{missing[0]} is missing: coordinator, process-id and "
            "processes go together, or none of them on SLURM and TPU pods"
        )
    where = {"cluster_detection_method": None}
    if not missing:
        _check(coordinator, process_id, processes)
        where = {
            "coordinator_address": coordinator,
            "num_processes": processes,
            "process_id": process_id,
            "cluster_detection_method": "deactivate",
        }
    try:
        jax.distributed.initialize(**where, initialization_timeout=60 * _MINUTES)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"the hosts of this run did not connect within {_MINUTES} minutes: "
            f"{error}; check --distributed.coordinator and that every process was "
            "started, or pass --distributed.processes 1 to run on this host alone"
        ) from error
    return processes or max(map(_tasks, _TASKS), default=0)


def leave():
    """Disconnects after `join`, once all hosts have finished."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def _check(coordinator, process_id, processes):
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(
            f"--distributed.coordinator {coordinator}: write it as host:port, for "
            "instance 10.0.0.1:8476"
        )
    if not 0 <= process_id < processes:
        raise ValueError(
            f"--distributed.process-id {process_id} is not one of {processes} "
            "processes, counted from 0"
        )


def _in_a_cluster(environment=os.environ):
    """Whether this process was started as one of several that jax can find."""
    if any(_tasks(name, environment) > 1 for name in _TASKS):
        return True
    if environment.get("JAX_PLATFORMS", "tpu").split(",")[0] != "tpu":
        return False
    chips = any(pathlib.Path("/dev").glob("accel[0-9]*"))
    chips = chips or any(pathlib.Path("/dev/vfio").glob("[0-9]*"))
    return chips and importlib.util.find_spec("libtpu") is not None


def _tasks(name, environment=os.environ):
    return int(environment.get(name, "0"))


def broadcast_from_first(make):
    """Calls `make()` on the first host and returns its result, JSON, on all hosts.

    A ValueError or OSError is raised on all hosts; any other exception is raised on the
    first host and becomes a RuntimeError on the others.
    """
    if count() == 1:
        return make()
    message, error = b"", None
    if first():
        try:
            message = json.dumps({"value": make()}).encode()
        except Exception as problem:  # or the others would wait forever
            error = problem
            kinds = [k for k, v in _ERRORS.items() if isinstance(problem, v)]
            message = json.dumps({[*kinds, "RuntimeError"][0]: str(problem)}).encode()
    answer = json.loads(_broadcast(message))
    if error is not None:
        raise error
    if "value" not in answer:
        kind, text = next(iter(answer.items()))
        raise _ERRORS.get(kind, RuntimeError)(text)
    return answer["value"]


def _broadcast(message):
    """The bytes of the first host, padded: every new length compiles a program."""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    padded = np.zeros(2 ** math.ceil(math.log2(max(length, 64))), np.uint8)
    padded[: len(message)] = np.frombuffer(message, np.uint8)
    return multihost_utils.broadcast_one_to_all(padded)[:length].tobytes()


def barrier(name):
    """Waits until all hosts have reached the barrier called `name`."""
    if count() > 1:
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def all_or_none():
    """A block that fails on all hosts if it raises ValueError or OSError on one."""
    error = None
    try:
        yield
    except (OSError, ValueError) as problem:
        error = problem
    if any_of(error is not None):
        raise error or OSError(errno.EIO, "another host could not do its part")


def any_of(flag):
    """Whether `flag` is true on any host; waits for all of them."""
    return bool(_total(flag)) if count() > 1 else bool(flag)


class Ballot:
    """`any_of`, one call late, so that no device has to wait for the answer."""

    def __init__(self):
        self._previous = None

    def cast(self, flag):
        """Whether any host's flag was true at the previous call; one host: at this."""
        if count() == 1:
            return bool(flag)
        previous, self._previous = self._previous, _total(flag)
        return previous is not None and bool(previous)


def _total(flag):
    """The number of devices on hosts where `flag` is true: [], the same everywhere."""
    sharding = jax.NamedSharding(_all_devices(), jax.P("all"))
    local = np.full(jax.local_device_count(), bool(flag), np.int32)
    return _sum(jax.make_array_from_process_local_data(sharding, local))


@functools.cache
def _all_devices():
    order = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    return jax.sharding.Mesh(np.array(order), ("all",))


@jax.jit
def _sum(flags):
    return flags.sum()


def to_numpy(tree):
    """A pytree of arrays, sharded in any way, as complete numpy arrays.

    Typed keys stay as they are. All hosts must call it.
    """
    return jax.tree.map(_to_numpy, tree)


def _to_numpy(x):
    if not isinstance(x, jax.Array):
        return np.asarray(x)
    if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
        return x
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)


def put(x, sharding):
    """Puts an array, key or number that every host has onto devices."""
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    spread = isinstance(x, jax.Array) and not x.is_fully_addressable
    if spread or not hasattr(x, "dtype"):  # a number stays weakly typed
        return _identity(sharding)(x)
    if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = put(np.asarray(jax.random.key_data(x)), sharding)
        impl = str(jax.random.key_impl(x))
        wrap = functools.partial(jax.random.wrap_key_data, impl=impl)
        return jax.jit(wrap, out_shardings=sharding)(data)
    if getattr(x, "weak_type", False):
        return _identity(sharding)(x)
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


@functools.lru_cache(maxsize=64)
def _identity(sharding):
    return jax.jit(lambda x: x, out_shardings=sharding)
