"""Devices, hosts, disks and clocks: what a run touches besides arrays."""
