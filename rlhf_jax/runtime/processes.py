"""Many hosts as one: how they find each other, agree, and see each other's arrays.

Every host runs the same program on the same inputs; the first one alone writes files.
With one host all of this is free, and nothing here touches a device.
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
_MINUTES = 5  # that hosts may take to appear
_TASKS = (
    "SLURM_STEP_NUM_TASKS",
    "OMPI_COMM_WORLD_SIZE",
)  # of processes started at once


def count():
    """How many hosts there are."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def first():
    """Whether this host is the one that writes files and talks."""
    return count() == 1 or jax.process_index() == 0


# Finding each other


def join(coordinator=None, process_id=None, processes=None):
    """Joins the hosts of a run; before the first computation, at most once.

    Told who they are (`coordinator` "host:port" of process 0, all three or none), or
    found out from SLURM, Open MPI or the Cloud TPU this runs on. `processes=1` is one
    host by itself, wherever it stands. Returns how many there are, 0 where only jax
    knows, once devices are asked for.
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
            "processes are told together, or none of them on SLURM and TPU pods"
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
            f"the hosts of this run did not find each other in {_MINUTES} minutes: "
            f"{error}; check --distributed.coordinator and that every process was "
            "started, or pass --distributed.processes 1 to run on this host alone"
        ) from error
    return processes or max(map(_tasks, _TASKS), default=0)


def leave():
    """Ends what `join` began, once all hosts have come to their end."""
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


# Agreeing


def told(make):
    """What `make()`, called on the first host, returns: JSON, on all hosts.

    A ValueError or OSError of it is raised on all of them; of anything else that it
    raises the others make a RuntimeError.
    """
    if count() == 1:
        return make()
    said, error = b"", None
    if first():
        try:
            said = json.dumps({"value": make()}).encode()
        except Exception as problem:  # or the others would wait for ever
            error = problem
            kinds = [k for k, v in _ERRORS.items() if isinstance(problem, v)]
            said = json.dumps({[*kinds, "RuntimeError"][0]: str(problem)}).encode()
    answer = json.loads(_broadcast(said))
    if error is not None:
        raise error
    if "value" not in answer:
        kind, text = next(iter(answer.items()))
        raise _ERRORS.get(kind, RuntimeError)(text)
    return answer["value"]


def _broadcast(said):
    """The bytes of the first host. Few lengths are sent, for each is a program."""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(said))))
    padded = np.zeros(2 ** math.ceil(math.log2(max(length, 64))), np.uint8)
    padded[: len(said)] = np.frombuffer(said, np.uint8)
    return multihost_utils.broadcast_one_to_all(padded)[:length].tobytes()


def wait(place):
    """Until all hosts have come to `place`."""
    if count() > 1:
        multihost_utils.sync_global_devices(place)


@contextlib.contextmanager
def all_or_none():
    """A block that fails on all hosts when a ValueError or OSError ends it on one."""
    error = None
    try:
        yield
    except (OSError, ValueError) as problem:
        error = problem
    if any_of(error is not None):
        raise error or OSError(errno.EIO, "another host could not do its part")


def any_of(flag):
    """Whether `flag` is true on any host, at once."""
    return bool(_total(flag)) if count() > 1 else bool(flag)


class Ballot:
    """`any_of`, answered when it is asked the next time: no device waits for it."""

    def __init__(self):
        self._before = None

    def cast(self, flag):
        """Whether any host's flag was true: now, or of many hosts, the last time."""
        if count() == 1:
            return bool(flag)
        before, self._before = self._before, _total(flag)
        return before is not None and bool(before)


def _total(flag):
    """How many devices stand at hosts with a true flag: [], the same on all hosts."""
    mesh = _all_devices()
    cut = jax.NamedSharding(mesh, jax.P("all"))
    own = np.full(jax.local_device_count(), bool(flag), np.int32)
    return _sum(jax.make_array_from_process_local_data(cut, own))


@functools.cache
def _all_devices():
    order = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    return jax.sharding.Mesh(np.array(order), ("all",))


@jax.jit
def _sum(flags):
    return flags.sum()


# Arrays


def values(tree):
    """A pytree of arrays, wherever their parts lie, as whole numpy arrays.

    Typed keys stay as they are. All hosts must ask for it.
    """
    return jax.tree.map(_value, tree)


def _value(x):
    if not isinstance(x, jax.Array):
        return np.asarray(x)
    if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
        return x
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)


def put(x, sharding):
    """An array, key or number that every host has, laid out as `sharding` says."""
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return _identity(sharding)(x)
    if not hasattr(x, "dtype"):  # a number: what is weakly typed stays so
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
