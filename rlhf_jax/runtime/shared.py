"""Folders that many hosts see: the first host makes, names and closes them for all."""

import contextlib
import pathlib
import time

from rlhf_jax.runtime import files, processes

_PATIENCE = 30  # seconds until what one host made is seen by all, as over NFS


@contextlib.contextmanager
def alone(path):
    """`atomic.alone`, asked by the first host for all of them."""
    with contextlib.ExitStack() as stack:
        processes.told(lambda: stack.enter_context(files.alone(path)))
        yield


@contextlib.contextmanager
def folder(path):
    """`atomic.folder` of the first host, for all of them to fill."""
    with contextlib.ExitStack() as stack:
        named = processes.told(lambda: str(stack.enter_context(files.folder(path))))
        _seen(pathlib.Path(named))
        yield pathlib.Path(named)
        processes.told(stack.close)


def _seen(path):
    """Waits for a folder that the first host made; ValueError where it is not shared.

    The others then have a disk of their own, and half of a checkpoint would be lost.
    """
    if processes.count() == 1:
        return
    until = time.monotonic() + _PATIENCE
    while not path.is_dir() and time.monotonic() < until:
        time.sleep(0.1)
    if processes.any_of(not path.is_dir()):
        raise ValueError(
            f"{path.parent} is not the same folder on all {processes.count()} hosts: "
            "choose an --output and a --cache on a disk that they share"
        )
