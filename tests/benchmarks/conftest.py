"""Benchmarks: ratios, printed and never asserted.

They are not part of the test suite: name the files, and give them the machine to themselves.

    pytest tests/benchmarks/bench_*.py -n 0
    pytest tests/benchmarks/bench_*.py -n 0 --tiny      # whether they work; the ratios mean nothing

pytest-benchmark repeats what is measured; with `--benchmark-json FILE` it also keeps the ratios.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.benchmarks.measure import Pair, Ratio, machine, ratio, timed

RATIOS = pytest.StashKey[list[Ratio]]()


class Sizes(NamedTuple):
    """How much is measured."""

    pairs: int
    batch_size: int
    tiny: bool

    def dataset(self, name: str) -> str:
        """The data set to take for `name`: of 2,000 small images if all is to be tiny."""
        return "synthetic" if self.tiny else name


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pairs", type=int, default=12, help="Pairs of timings per ratio.")
    parser.addoption("--tiny", action="store_true", help="Toy sizes: whether benchmarks work.")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RATIOS] = []
    config.option.benchmark_quiet = True  # its table would show the seconds of whole pairs


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ratios = terminalreporter.config.stash[RATIOS]
    if ratios:
        terminalreporter.section("ratios")
        for each in ratios:
            terminalreporter.line(str(each))
        terminalreporter.line(machine())


@pytest.fixture
def sizes(request: pytest.FixtureRequest) -> Sizes:
    if request.config.getoption("--tiny"):
        return Sizes(pairs=2, batch_size=16, tiny=True)
    return Sizes(request.config.getoption("--pairs"), batch_size=256, tiny=False)


@pytest.fixture
def note(request: pytest.FixtureRequest, benchmark) -> Callable[..., None]:
    """note(name, pairs, aim, unit) prints a ratio at the end, and adds it to --benchmark-json."""
    if benchmark.disabled:
        pytest.fail("benchmarks need the machine to themselves: add -n 0", pytrace=False)

    def note(name: str, pairs: list[Pair], aim: float | None = None, unit: str = "s") -> None:
        measured = ratio(name, pairs, aim, unit)
        request.config.stash[RATIOS].append(measured)
        benchmark.extra_info[name] = measured._asdict()

    return note


@pytest.fixture
def compare(benchmark, sizes: Sizes, note: Callable[..., None]) -> Callable[..., None]:
    """compare(name, ours, bare, aim) times two functions in turns."""

    def compare(
        name: str, ours: Callable[[], object], bare: Callable[[], object], aim: float | None = None
    ) -> None:
        pairs: list[Pair] = []
        benchmark.pedantic(
            lambda: pairs.append(Pair(timed(ours), timed(bare))),
            rounds=sizes.pairs,
            warmup_rounds=1,
        )
        note(name, pairs[1:], aim)

    return compare
