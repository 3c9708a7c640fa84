"""Ratios of two timings taken in turns in one process, so that a busy machine slows both alike."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch


class Pair(NamedTuple):
    """Seconds, or another cost, of what is measured and of what it is measured against."""

    ours: float
    bare: float


class Ratio(NamedTuple):
    """Ratios over pairs: their median, quartiles and extremes."""

    name: str
    median: float
    quartiles: tuple[float, float]
    extremes: tuple[float, float]
    n: int
    ours: float  # median cost, for orientation
    bare: float
    unit: str
    aim: float | None

    def __str__(self) -> str:
        aim = "" if self.aim is None else f", aim <= {self.aim:g}"
        spread = "" if self.n == 1 else (
            f", quartiles {self.quartiles[0]:.3f} to {self.quartiles[1]:.3f}"
            f", all {self.extremes[0]:.3f} to {self.extremes[1]:.3f}"
        )  # fmt: skip
        costs = f"{self.ours:.3g} / {self.bare:.3g} {self.unit}"
        return f"{self.name}: {self.median:.4g} ({costs}{spread}, n {self.n}{aim})"


def ratio(name: str, pairs: Sequence[Pair], aim: float | None = None, unit: str = "s") -> Ratio:
    """The ratio `ours` / `bare` over pairs that were taken next to each other.

    Args:
        name: What over what.
        pairs: At least one.
        aim: What the project wants it to stay below.
        unit: Of both costs.
    """
    ratios = [pair.ours / pair.bare for pair in pairs]
    lower, _, upper = statistics.quantiles(ratios * (1 + (len(ratios) == 1)), method="inclusive")
    return Ratio(
        name,
        statistics.median(ratios),
        (lower, upper),
        (min(ratios), max(ratios)),
        len(ratios),
        statistics.median(pair.ours for pair in pairs),
        statistics.median(pair.bare for pair in pairs),
        unit,
        aim,
    )


def timed(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def machine() -> str:
    """What a ratio was measured on: processor, cores, threads that torch uses, load, version."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")
    return (
        f"{model or platform.processor()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} torch thread(s), "
        f"torch {torch.__version__}"
    )
