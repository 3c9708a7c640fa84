"""A Ray cluster of two nodes on one machine, each with one CPU and an address of its own.

The nodes have different loopback addresses (Linux answers to all of 127.0.0.0/8), temporary
folders and object stores; what they share is the file system, as the nodes of a real cluster do.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RAY = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]
NODE = "HARNESS_TEST_NODE"
"""In the environment of every process of a node: its address."""


@dataclass(frozen=True)
class Node:
    """A running node."""

    process: subprocess.Popen[bytes]
    address: str
    folder: Path

    def lose(self) -> None:
        """Ends the node as a power cut would: raylet, workers and all, at once."""
        for pid in _processes_of(self.address):
            os.kill(pid, signal.SIGKILL)
        self.process.wait(timeout=30)
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Cluster:
    """A head and another node, with what a driver needs to join them."""

    head: Node
    other: Node
    address: str
    environment: dict[str, str]


@contextmanager
def two_nodes() -> Iterator[Cluster]:
    """Starts both nodes; ends whatever is left of them, whatever happens."""
    started: list[Node] = []
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = os.environ | token | {"RAY_USAGE_STATS_ENABLED": "0"}
    third = os.getpid() % 200  # so that two of these can be on a machine
    first, second = f"127.{third + 1}.0.2", f"127.{third + 1}.0.3"
    address = f"{first}:{_free_port(first)}"
    try:
        head = ["--head", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false"]
        _start(started, first, head, environment)
        _wait_for(address, started[0])
        _start(started, second, [f"--address={address}"], environment)
        yield Cluster(*started, address, environment)
    finally:
        for node in reversed(started):
            node.lose()


def _start(
    started: list[Node], address: str, options: list[str], environment: dict[str, str]
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="hrc-", dir="/tmp"))  # Ray's sockets need a short path
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*RAY, "start", *options, f"--node-ip-address={address}", f"--temp-dir={folder}",
             "--num-cpus=1", f"--object-store-memory={100 * 2**20}", "--block"],
            env=environment | {NODE: address},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    started.append(Node(process, address, folder))


def _wait_for(address: str, node: Node) -> None:
    """Returns when something answers at an address."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + 60
    while node.process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"no Ray at {address}: {(node.folder / 'log').read_text()[-2000:]}")


def _processes_of(address: str) -> list[int]:
    """All processes of a node, also those that left its process group."""
    mark = f"{NODE}={address}\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:  # it has just ended, or is somebody else's
                continue
    return found


def _free_port(host: str) -> int:
    with socket.socket() as taken:
        taken.bind((host, 0))
        return int(taken.getsockname()[1])
