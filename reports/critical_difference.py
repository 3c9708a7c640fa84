"""The critical-difference diagram of Demšar, JMLR 2006, figure 1."""

from __future__ import annotations

import io

import pandas as pd

from reports.statistics import ALPHA, Comparison

ROW = 0.22
"""Inches per row of text."""


def diagram(comparison: Comparison) -> str:
    """Average ranks on a line, best on the left, and a bar over methods that may be equal.

    Where Friedman's test does not reject equality, one bar joins all methods, whatever Nemenyi's
    test says about pairs.

    Returns:
        An `<svg>` element, the same bytes for the same comparison; it needs nothing else, as a file
        or within HTML, and its letters stay text.

    Raises:
        ValueError: The comparison has no omnibus test.
    """
    # Both take seconds to import.
    import matplotlib
    import scikit_posthocs  # type: ignore[import-untyped, unused-ignore]
    from matplotlib.figure import Figure

    if comparison.omnibus is None:
        raise ValueError(f"no critical-difference diagram: {' '.join(comparison.claims)}")
    ranks, p_values = comparison.average_ranks, comparison.omnibus.nemenyi
    if not comparison.allows_pairs:
        p_values = pd.DataFrame(1.0, index=p_values.index, columns=p_values.columns)

    # A fixed salt makes the ids, and so the bytes, the same every time; "$" is only a letter.
    with matplotlib.rc_context(
        {"svg.hashsalt": "", "svg.fonttype": "none", "text.parse_math": False}
    ):
        figure = Figure()
        axes = figure.add_axes((0, 0, 1, 1))
        drawn = scikit_posthocs.critical_difference_diagram(
            ranks,
            p_values,
            alpha=ALPHA,
            ax=axes,
            label_fmt_left="{label} ({rank:.2f})",
            label_fmt_right="({rank:.2f}) {label}",
            text_h_margin=0.02 * len(ranks),
            elbow_props={"color": "black", "linewidth": 1},
            marker_props={"s": 12},
            crossbar_props={"linewidth": 4, "solid_capstyle": "butt"},
        )
        for (bar,) in drawn["crossbars"]:
            bar.set_xdata(sorted(bar.get_xdata()))  # it comes in the order of a set of names

        distance, top = comparison.omnibus.critical_distance, 2.4
        axes.plot([1, 1 + distance], [top, top], color="black", marker="|", clip_on=False)
        axes.text(1 + distance / 2, top + 0.5, f"CD = {distance:.2f}", ha="center")
        lowest = min(label.get_position()[1] for label in drawn["labels"]) - 0.5
        axes.set(xlim=(1, len(ranks)), xticks=range(1, len(ranks) + 1), ylim=(lowest, top))
        figure.set_size_inches(5, ROW * (top - lowest))
        file = io.StringIO()
        nothing = dict.fromkeys(["Creator", "Date", "Format", "Type"])
        figure.savefig(file, format="svg", bbox_inches="tight", metadata=nothing)
    svg = file.getvalue()
    return svg[svg.index("<svg") :]
