"""Tells a benchmark of latencies when a job starts. The standard library only, for all systems."""

import os
import socket
import struct
import time

_ADDRESS = os.environ.get("BENCHMARK_STARTED")
"""A socket for datagrams; without it nothing is told."""


def tell_start() -> None:
    """Send the time, by the clock that all processes of a machine share."""
    if _ADDRESS:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(struct.pack("d", time.monotonic()), _ADDRESS)
