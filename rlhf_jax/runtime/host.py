"""What this host has."""

import pathlib


def available_memory():
    """Bytes that programs can still take without swapping, None where not known."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(found[0][1]) * 1024 if found else None
