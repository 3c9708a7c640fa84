"""A whole report on 10,000 runs against one on 1,000: 10 is linear."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from reports.report import make_report
from reports.results import from_csv


def _runs(folder: Path, methods: int, seeds: int) -> pd.DataFrame:
    """Made-up results of every method and seed under twenty conditions."""
    index = pd.MultiIndex.from_product(
        [
            [f"data{n}" for n in range(5)],
            [0.5, 1.0, 2.0, 5.0],
            [f"method{n}" for n in range(methods)],
            range(seeds),
        ],
        names=["dataset", "ratio", "method", "seed"],
    )
    drawn = np.random.default_rng(0)
    strength = pd.Series(range(methods), index=[f"method{n}" for n in range(methods)])
    unbiased = 50 + strength.loc[index.get_level_values("method")] + drawn.normal(0, 2, len(index))
    table = index.to_frame(index=False).assign(
        unbiased=unbiased.to_numpy(),
        worst_group=unbiased.to_numpy() - 20,
        preset="paper",
        selection="unbiased",
        checkpoint="last",
    )
    path = folder / f"{len(table)}.csv"
    table.to_csv(path, index=False)
    return from_csv(path)


def test_report(sizes, compare, tmp_path):
    few = _runs(tmp_path, *((2, 2) if sizes.tiny else (10, 5)))
    many = _runs(tmp_path, *((4, 4) if sizes.tiny else (20, 25)))
    compare(
        f"report: on {len(many)} runs / on {len(few)} runs",
        lambda: make_report(many),
        lambda: make_report(few),
    )
