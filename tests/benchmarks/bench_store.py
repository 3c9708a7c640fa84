"""What the commands that read a store take when it holds 10,000 recorded runs, and their memory.

    pytest tests/benchmarks/bench_store.py -n 0

The runs are made up, but recorded as real ones are, under settings that the searchers proposed, so
that the commands find nothing out of place. What is above 1 misses its aim.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from harness import datasets
from harness.compose import Choice, compose
from harness.disk import seal
from harness.ledger import Look, Record
from harness.proposals import Proposals
from harness.schedule import Sweep
from harness.stages import digest
from harness.study import CONFIRM_SEED, Metrics, Store, Study, Work
from tests.benchmarks.conftest import Sizes
from tests.benchmarks.measure import Pair

METHODS = ["dcwp", "dfr", "disent", "end", "erm", "groupdro", "jtt", "lff", "mrm", "rebias"]
RATIOS = [0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0]
LOOKS, SEEDS = 5, 3
GIB = 2**30


class Load(NamedTuple):
    """A sweep, and how much of it is recorded."""

    methods: Sequence[str]
    ratios: Sequence[float]
    trials: int
    dataset: str

    def choice(self) -> Choice:
        return Choice([*self.methods], [self.dataset], [*self.ratios], preset="quick", device="cpu")

    def command(self, store: Path) -> list[str]:
        options = [f"--method={name}" for name in self.methods]
        options += [f"--dataset={self.dataset}", *(f"--ratio={ratio}" for ratio in self.ratios)]
        options += ["--preset=quick", "--device=cpu", "--concurrency=2"]
        return [
            "sweep",
            *options,
            f"--trials={self.trials}",
            f"--seeds={SEEDS}",
            f"--store={store}",
        ]


def made_up(study: Study, work: Work) -> Record:
    """A record of as many looks, tables, stages and metrics as a run of DCWP leaves."""
    drawn = np.random.default_rng(int(digest([study.id, work.key])[:8], 16))
    aligned = np.array(study.aligned)
    total = {
        "valid_biased": np.where(aligned, 190, 5),
        "valid_unbiased": np.full(aligned.shape, 20),
        "test": np.full(aligned.shape, 100),
    }
    skill = drawn.uniform(0.3, 0.9)
    looks = []
    for look in range(1, LOOKS + 1):
        seen = [s for s in total if s != "test" or work.role != "search" or look == LOOKS]
        share = np.where(aligned, 0.95, skill * look / LOOKS)
        correct = {split: drawn.binomial(total[split], share).tolist() for split in seen}
        looks.append(Look(100 * look, 12.5 * look, correct))
    stages = [
        {"name": name, "key": f"{name}-{drawn.integers(2**60):x}", "seconds": 10.0, "reused": True}
        for name in ("initialise", "pretrain", "mine", "learn_mask")
    ]
    metrics = {"mining/size": 480.0, "mining/precision": 0.99, "mining/recall": skill}
    metrics |= {"parameters": 1e7, "parameters_kept": 2e6, "density": float(drawn.random())}
    return Record(
        work.role, work.number, work.seed, work.settings, "finished",
        {split: table.tolist() for split, table in total.items()}, looks, metrics, stages,
        12.5 * LOOKS, "2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def fill(store: Store, load: Load) -> list[Study]:
    """Records all of a sweep; one write per study, as nothing here must outlast a power cut."""
    studies = compose(load.choice()).studies
    recipe = datasets.get(load.dataset)
    for study in studies:
        store.create(study, 2, Metrics(recipe.primary, recipe.unbiased))
        ledger = store.ledger(study.id)
        search = Proposals(study, ledger, load.trials, lookahead=2)
        sweep = Sweep(study, ledger, search, range(CONFIRM_SEED, CONFIRM_SEED + SEEDS))
        while isinstance(work := sweep.next(), Work):
            ledger.records[work.key] = made_up(study, work)
        lines = (seal(dataclasses.asdict(record)) for record in ledger.records.values())
        ledger.path.write_text("".join(f"{line}\n" for line in lines))
    return studies


def forget_last_trial(store: Store, study: Study) -> None:
    """Leaves a study with its last search trial to be run."""
    path = store.ledger(study.id).path
    kept = [line for line in path.read_text().splitlines(True) if '"role":"search"' in line]
    path.write_text("".join(kept[:-1]))


class Cost(NamedTuple):
    """Of a command: seconds until it said what was waited for, and its own peak memory."""

    seconds: float
    peak: int


def cost(words: Sequence[str], log: Path, until: str = "") -> Cost:
    """Runs `harness` to its end, or until a line of its output holds some words.

    Raises:
        RuntimeError: It failed, or never said them.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    peaks = [0]
    watch = threading.Thread(target=_watch, args=(process.pid, peaks))
    watch.start()
    said = ""
    with log.open("w") as file:
        for said in process.stdout:
            file.write(said)
            if until and until in said:
                break
    seconds = time.perf_counter() - started
    if until:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    watch.join()
    if (until and until not in said) or (not until and process.returncode):
        raise RuntimeError(f"harness {words[0]} failed: {log.read_text()[-2000:]}")
    return Cost(seconds, max(peaks))


def _watch(pid: int, peaks: list[int]) -> None:
    """Notes the peak memory of a process until it ends; wait4 would count this process's, too."""
    while True:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return
        peak = next((line for line in status.splitlines() if line.startswith("VmHWM")), "")
        if not peak:  # it has ended
            return
        peaks.append(1024 * int(peak.split()[1]))
        time.sleep(0.02)


@pytest.fixture(scope="module")
def many(request: pytest.FixtureRequest) -> Load:
    """10,000 trials and 300 confirm runs, in 100 studies."""
    if request.config.getoption("--tiny"):
        return Load(METHODS[:2], RATIOS[:2], 4, "synthetic")
    return Load(METHODS, RATIOS, 100, "cmnist")


@pytest.fixture
def noted(
    benchmark, note: Callable[..., None], sizes: Sizes, tmp_path: Path
) -> Callable[..., None]:
    """noted(name, words, aim, until) runs a command a few times, in turns with nothing."""

    def noted(name: str, words: Sequence[str], aim: float, until: str = "") -> None:
        costs: list[Cost] = []
        benchmark.pedantic(
            lambda: costs.append(cost(words, tmp_path / "log", until)),
            rounds=1 if sizes.tiny else 5,
        )
        note(f"{name}: seconds / aim", [Pair(each.seconds, aim) for each in costs], 1)
        peaks = [Pair(each.peak / GIB, 1.0) for each in costs]
        note(f"{name}: peak memory / aim", peaks, 1, "GiB")

    return noted


@pytest.fixture(scope="module")
def full(many: Load, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store in which all of `many` is recorded."""
    store = Store(tmp_path_factory.mktemp("full"))
    fill(store, many)
    for ratio in many.ratios:
        datasets.prepare(many.dataset, datasets.default_root(), ratio)
    return store


@pytest.mark.parametrize("form", ["table", "html"])
def test_leaderboard(form, full, noted, tmp_path):
    words = ["leaderboard", f"--store={full.root}", f"--format={form}"]
    if form == "html":
        words.append(f"--output={tmp_path / 'page.html'}")
    noted(f"leaderboard of 10,000 trials, {form}", words, aim=5)


@pytest.mark.parametrize("studies", ["one study", "all studies"])
@pytest.mark.parametrize("left", [0, 1])
def test_resume(left, studies, full, many, noted, tmp_path):
    """Of the whole sweep, or of its last study alone, in the same store."""
    store = Store(tmp_path / "store")
    shutil.copytree(full.root, store.root)
    alone = many._replace(methods=many.methods[-1:], ratios=many.ratios[-1:])
    if left:
        (last,) = compose(alone.choice()).studies
        forget_last_trial(store, last)
    words = (alone if studies == "one study" else many).command(store.root)
    noted(f"resume of {studies}, {left} left", words, 10, " start " if left else "nothing left")


@pytest.mark.parametrize("trials", [100, 1000, 2000])
def test_resume_of_a_long_search(trials, noted, sizes, tmp_path):
    """TPE has to be asked again for all that it proposed."""
    if sizes.tiny:
        trials //= 20
    load = Load(["dcwp"], [1.0], trials, sizes.dataset("cmnist"))
    (study,) = fill(Store(tmp_path), load)
    forget_last_trial(Store(tmp_path), study)
    noted(f"resume of a search of {trials} trials", load.command(tmp_path), 10, " start ")
