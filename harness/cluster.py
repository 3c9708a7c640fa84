"""Ray: started here or joined, watched, and shut down with nothing left behind."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.console import say
from harness.execution import Site
from harness.schedule import Schedule
from harness.space import one_line

# Ray reads these when it is imported.
os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Odd name, but the one switch that keeps the listeners of a local Ray on the loopback
    # interface. It has no effect on a cluster that runs already.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Tune takes no worker that Ray's monitor has killed for its memory as dead, but raises. The
    # system kills workers first, too, and such a one is dead to Tune.
    "RAY_memory_monitor_refresh_ms": "0",
}
import ray  # noqa: E402


@contextmanager
def cluster(site: Site) -> Iterator[Path]:
    """A local Ray, or a connection to a running cluster; yields a temporary folder.

    Raises:
        ValueError: No cluster answers at `site.address`, or Ray does not start here.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    with _short_folder() as folder:
        try:
            if site.address:
                _reach(site.address)
                ray.init(address=site.address, **quiet)
            else:
                _start(site, folder / "ray", quiet)
            yield folder
        except ConnectionError as error:
            reason = str(error).strip().split("\n")[0]
            raise ValueError(
                f"no Ray cluster answers at {site.address} ({reason}): check --address, and "
                "RAY_AUTH_TOKEN if the cluster asks for a token"
            ) from None
        finally:
            ray.shutdown()


def _start(site: Site, folder: Path, quiet: dict[str, Any]) -> None:
    """Starts a Ray of our own.

    Raises:
        ValueError: It did not start, as on a machine that is very busy.
    """
    # Ray would make one in the home folder, readable by others.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        ray.init(
            num_cpus=site.concurrency,
            num_gpus=site.gpus,
            include_dashboard=False,
            object_store_memory=200 * 2**20,
            _temp_dir=str(folder),  # which Ray opens to everybody
            **quiet,
        )
    except Exception as error:  # what Ray raises is an Exception, and no more
        reason = one_line(error)
        raise ValueError(f"Ray did not start: {reason}; the same command tries again") from None


@contextmanager
def _short_folder() -> Iterator[Path]:
    """A temporary folder for Ray, whose sockets have paths of 107 bytes at most.

    Folders that killed sweeps have left are removed: nobody holds their lock.
    """
    temporary = Path("/tmp")  # noqa: S108 - only the name is known beforehand
    for left in temporary.glob("hrn-*/lock"):
        with suppress(Timeout, OSError), FileLock(left, timeout=0):
            shutil.rmtree(left.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=".hrn-", dir=temporary))
    try:
        with FileLock(folder / "lock"):
            folder = folder.rename(temporary / folder.name[1:])  # held before others can see it
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def watched(schedule: Schedule) -> Iterator[None]:
    """Halts the schedule when a part of our own Ray dies: Tune would wait for it for ever."""
    # No public function tells, except by ending this process after a minute without the GCS.
    node: Any = ray._private.worker._global_node
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1):
            dead = {kind for kind, _ in node.dead_processes()} & {"raylet", "gcs_server"}
            if dead and not over.is_set():
                schedule.halt(f"Ray's {' and '.join(sorted(dead))} died")
                signal.raise_signal(signal.SIGUSR1)
                _end_unless_shut_down(schedule)
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _end_unless_shut_down(schedule: Schedule) -> None:
    """Ends this process if it waits for a dead Ray, where no signal handler can run."""
    patience = time.monotonic() + 15
    while time.monotonic() < patience:
        if not ray.is_initialized():
            return
        time.sleep(0.1)
    left = schedule.remaining()
    say(f"error: {schedule.halted}; {left} runs are left; the same command continues")
    os._exit(1)  # the ledgers are on disk; MLflow and Optuna's view are caught up with later


def _reach(address: str) -> None:
    """Raises ConnectionError within seconds; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise ConnectionError(error.strerror or str(error)) from None
