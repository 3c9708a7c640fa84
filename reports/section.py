"""What a report consists of: titled tables of text, sentences, figures. Formats only lay it out."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd


class Section(NamedTuple):
    """One table, one figure or both, with what a reader must know of them.

    Attributes:
        chapter: Sections of a chapter stand together.
        title: States the conditions that all rows share.
        table: Text, ready to read; no rows for none.
        notes: Sentences below the title.
        figure: SVG; empty for none.
        key: Short file-name-safe identity, unique within a report.
        detail: Too long for a terminal, which leaves it out.
    """

    chapter: str
    title: str
    table: pd.DataFrame = pd.DataFrame()
    notes: tuple[str, ...] = ()
    figure: str = ""
    key: str = ""
    detail: bool = False


def spread(mean: float, std: float, digits: int = 1) -> str:
    """`mean ± std` as text; a dash where there is no mean, no spread where there is one value."""
    if pd.isna(mean):
        return "–"
    return f"{mean:.{digits}f}" + ("" if pd.isna(std) else f" ± {std:.{digits}f}")
