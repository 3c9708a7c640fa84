"""How many short trials a second a sweep sustains through Ray, Optuna and MLflow together.

The sweep runs as typed, in processes of its own; the clock is that of whoever watches its ledger
grow. Starting Ray and the workers, and what is written after the last trial, are left out.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from harness import datasets
from tests.benchmarks.measure import Pair

AIM = 10  # trials a second and core
CORES = 2
SKIPPED = 20  # trials until workers, imports and caches are warm


def test_throughput(sizes, benchmark, note, tmp_path):
    """Trials that wait for 50 ms: seconds a trial and core took over those it may take."""
    trials = 30 if sizes.tiny else 200
    plugin = Path(__file__).with_name("sleeper.py")
    datasets.prepare("synthetic", datasets.default_root(), 1.0)
    words = ["sweep", "--method=sleeper", f"--plugin={plugin}", "--dataset=synthetic"]
    words += ["--preset=quick", "--device=cpu", "--set=seconds=0.05", "--seeds=1"]
    words += [f"--trials={trials}", f"--concurrency={CORES}"]
    rates: list[Pair] = []

    def sweep() -> None:
        store = tmp_path / f"{len(rates)}"
        seen = _seen([sys.executable, "-m", "harness", *words, f"--store={store}"], store)
        seconds = (seen[trials - 1] - seen[SKIPPED - 1]) / (trials - SKIPPED)
        rates.append(Pair(seconds * CORES, 1 / AIM))

    benchmark.pedantic(sweep, rounds=1 if sizes.tiny else 3)
    note("throughput: seconds of a core per trial of 50 ms / aim", rates, aim=1)


def _seen(words: list[str], store: Path) -> list[float]:
    """When each record of a sweep was there, in seconds."""
    with (store.with_suffix(".log")).open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
    seen: list[float] = []
    while process.poll() is None:
        lines = sum(f.read_bytes().count(b"\n") for f in store.glob("studies/*/ledger.jsonl"))
        seen += [time.perf_counter()] * (lines - len(seen))
        time.sleep(0.01)
    assert process.returncode in (0, 1), store.with_suffix(".log").read_text()[-2000:]
    return seen
