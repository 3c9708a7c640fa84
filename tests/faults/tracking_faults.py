"""Tracking servers down, going away, answering 500 or slow; `harness sync` then catches up."""

from __future__ import annotations

import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.faults.catalogue import fault
from tests.faults.environment import harness
from tests.faults.lab import PATIENCE, Lab, Outcome

DELAY = 5.0
"""Seconds by which a slow server is late with each answer."""


class Front(ThreadingHTTPServer):
    """Stands before a tracking server and misbehaves; counts how often.

    Attributes:
        mode: "pass" on what is asked, "drop" the connection, answer "500", or be "slow".
    """

    daemon_threads = True

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behind, self.mode = behind, "pass"
        self.struck: Counter[str] = Counter()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def uri(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gave up is none of our business."""


class Handler(BaseHTTPRequestHandler):
    """One request to a `Front`."""

    server: Front

    def answer(self) -> None:
        """Misbehaves, or asks the server behind."""
        mode = self.server.mode
        self.server.struck[mode] += 1
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if mode == "drop":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if mode == "500":
            self.reply(500, b"broken on purpose", {})
            return
        if mode == "slow":
            time.sleep(DELAY)
        behind = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name != "Host"}
        behind.request(self.command, self.path, body, headers)
        reply = behind.getresponse()
        kept = {n: v for n, v in reply.getheaders() if n.lower() == "content-type"}
        self.reply(reply.status, reply.read(), kept)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Sends an answer."""
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(folder: Path, port: int) -> Iterator[Path]:
    """A real MLflow server on a port; gives its database."""
    folder.mkdir(parents=True)
    database = folder / "mlflow.db"
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
         "--backend-store-uri", f"sqlite:///{database}", "--workers", "1",
         "--artifacts-destination", str(folder / "artifacts")],
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE
        while not is_up(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the MLflow server did not start: {process.poll()}")
            time.sleep(0.2)
        yield database
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def is_up(port: int) -> bool:
    """Whether a tracking server answers."""
    try:
        return bool(urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200)
    except (URLError, OSError):
        return False


def sync(store: Path, uri: str) -> None:
    """Has what is missing written."""
    code, said = harness("sync", "--store", str(store), "--tracking-uri", uri)
    if code:
        raise AssertionError(f"`harness sync`: exit {code}, {said}")


def warned(sweep_line: str, output: str) -> str:
    """A warning that the user must have been given."""
    if not sweep_line:
        raise AssertionError(f"no warning about tracking: {output}")
    return sweep_line


@fault("tracking down", "no tracking server for the whole sweep, then `harness sync`", times=1)
def be_down(lab: Lab, rng: random.Random) -> Outcome:
    lab.undisturbed()
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    sweep = lab.finish(lab.new_store(), more=["--tracking-uri", uri])
    told = warned(sweep.line("warning: tracking"), sweep.output)
    with server(sweep.store.with_suffix(".mlflow"), port) as database:
        sync(sweep.store, uri)
    return Outcome(sweep.store, [sweep], 0, told=told, database=database, codes=[0])


def misbehave(lab: Lab, rng: random.Random, mode: str, begin: int, last: int | None) -> Outcome:
    """A server misbehaves from one record to another, or to the end; then `harness sync`."""
    lab.undisturbed()
    store, port = lab.new_store(), free_port()
    with server(store.with_suffix(".mlflow"), port) as database, Front(port) as front:
        front.mode = "pass" if begin else mode
        sweep = lab.start(store, more=["--tracking-uri", front.uri])
        if begin:
            sweep.wait_for_records(begin)
            front.mode = mode
        if last:
            sweep.wait_for_records(last)
            sweep.wait_for(lambda: front.struck[mode] > 0, "request meanwhile")
            front.mode = "pass"
        before = len(sweep.look())
        sweep.end()
        if not front.struck[mode]:
            raise AssertionError(f"the server was never asked while {mode}: {sweep.output}")
        told = sweep.line("warning: tracking")
        if mode == "500":
            told = warned(told, sweep.output)
        front.mode = "pass"
        sync(store, front.uri)
    told = told or "(nothing: it catches up)"
    return Outcome(store, [sweep], before, told=told, database=database, codes=[0])


for name, injected, mode, begin, last in (
    ("tracking comes back", "drops every connection between the 2nd and 6th record", "drop", 2, 6),
    ("tracking goes away", "drops every connection from a record on", "drop", 4, None),
    ("tracking answers 500", "answers 500 from the start", "500", 0, None),
    ("tracking breaks", "answers 500 from a record on", "500", 4, None),
    ("tracking slow", f"answers {DELAY:.0f} s late", "slow", 0, None),
):
    fault(name, f"a tracking server that {injected}, then `harness sync`", times=1)(
        partial(misbehave, mode=mode, begin=begin, last=last)
    )
