"""Figures of how sweeps went: the frames of :mod:`reports.trials` in, Altair charts and SVG out.

A frame holds all methods of a figure; `score` is the title of the axis of validation scores, and
the key gives a method one colour and shape in all figures of a report. Altair takes long to
import, so the functions that draw import it.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from harness.space import Choice, Log, Range, Uniform

if TYPE_CHECKING:
    import altair as alt

    Chart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.ConcatChart

WIDTH = 640
"""Pixels that the panels of a figure fill side by side."""
COLUMNS = 3
"""Small panels in a row."""
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
"""The renderer brings the first, so layouts are the same everywhere; the others are as wide."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000", "#56B4E9")
"""Okabe and Ito's palette for all kinds of colour vision, but for yellow, which white swallows."""
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")


class Key(NamedTuple):
    """What each method looks like, by its place among the sorted names of a report."""

    names: tuple[str, ...]

    def colour(self, name: str) -> str:
        """One of seven."""
        return COLOURS[self.names.index(name) % len(COLOURS)]

    def shape(self, name: str) -> str:
        """One of seven; with the colour it tells 49 methods apart."""
        turn, place = divmod(self.names.index(name), len(COLOURS))
        return SHAPES[(place + turn) % len(SHAPES)]


def svg(chart: Chart) -> str:
    """The chart as an `<svg>` element, the same bytes for the same chart.

    Letters stay text, a view box lets it be shown at any width, and nothing is fetched.
    """
    import vl_convert

    return vl_convert.vegalite_to_svg(chart.to_json(validate=False))  # checking takes as long again


def png(figure: str, scale: float = 2.0) -> bytes:
    """An SVG figure as pixels, `scale` of them per unit of its view box."""
    import vl_convert

    return vl_convert.svg_to_png(figure, scale=scale)


def best_of_k(trials: pd.DataFrame, chances: pd.DataFrame, score: str, key: Key) -> Chart:
    """A panel per method: the expected best of k trials, and what the search did.

    Args:
        trials: Of :func:`reports.trials.trial_frame`, all methods in one.
        chances: Of :func:`reports.trials.best_of_k`, with the column name.
        score: Title of the vertical axis.
        key: What methods look like.
    """
    import altair as alt

    merged = trials.merge(chances, "outer", left_on=["name", "tried"], right_on=["name", "k"])
    base = alt.Chart(merged.assign(k=merged["k"].fillna(merged["tried"]))).encode(
        alt.X(
            "k:Q",
            scale=alt.Scale(zero=False, padding=8),
            axis=alt.Axis(format="d", tickMinStep=1),
            title="trials",
        ),
        color=_colour(merged, key, legend=None),
    )
    y = partial(alt.Y, scale=_percent(trials["score"]), title=None)
    layers = alt.layer(
        base.mark_area(opacity=0.2).encode(y("low:Q"), y2="high:Q"),
        base.mark_line(interpolate="step-after", strokeDash=[3, 2]).encode(
            y("best:Q"), color=alt.value("#555")
        ),
        base.mark_line(strokeWidth=2.5).encode(y("expected:Q")),
        base.mark_point(filled=True, size=20).encode(y("score:Q")),
    )
    columns = min(COLUMNS, merged["name"].nunique())
    panels = layers.properties(width=WIDTH / COLUMNS - 20, height=140)
    facets = panels.facet(_facet("name"), columns=columns, title=score)
    return _styled(facets.resolve_axis(x="independent"))


def compute(trials: pd.DataFrame, score: str, key: Key) -> Chart:
    """Best validation score so far against the compute spent, and every trial."""
    import altair as alt

    base = _against_time(trials, "elapsed", "compute of the search", key)
    y = partial(alt.Y, scale=_percent(trials["score"]), title=score)
    return _styled(
        alt.layer(
            base.mark_line(interpolate="step-after").encode(y("best:Q")),
            base.mark_point(filled=True, opacity=0.5).encode(
                y("score:Q"), shape=_shape(trials, key)
            ),
        ).properties(width=WIDTH, height=260)
    )


def density(trials: pd.DataFrame, score: str, key: Key) -> Chart:
    """Validation score against density: a mark per trial, which must have both."""
    import altair as alt

    low = trials["density"].min()
    shown = Log(0.8 * low, 100) if 0 < low < 10 else Uniform(min(low - low % 10, 90), 100)
    return _styled(
        alt.Chart(trials)
        .mark_point(filled=True)
        .encode(
            _axis_of(shown, "density: weights kept (%)", "density"),
            alt.Y("score:Q", scale=_percent(trials["score"]), title=score),
            color=_colour(trials, key),
            shape=_shape(trials, key),
        )
        .properties(width=WIDTH, height=240)
    )


def learning(looks: pd.DataFrame, key: Key) -> Chart:
    """Unbiased and bias-conflicting test accuracy against compute, a thin line per confirm run."""
    import altair as alt

    names = {"unbiased": "unbiased", "conflicting": "bias-conflicting"}
    tidy = looks.rename(columns=names).melt(
        ["name", "seed", "step", "seconds"], var_name="samples", value_name="accuracy"
    )
    base = _against_time(tidy, "seconds", "compute of the run", key).encode(
        alt.Y("accuracy:Q", scale=_percent(tidy["accuracy"]), title="test accuracy (%)"),
        detail="seed:N",
    )
    layers = alt.layer(
        base.mark_line(strokeWidth=1),
        base.mark_point(filled=True, size=20).encode(shape=_shape(tidy, key)),
    )
    panels = layers.properties(width=WIDTH / 2 - 20, height=240)
    facet = _facet("samples", sort=[*names.values()])
    return _styled(panels.facet(facet, columns=2, spacing=40))


def mining(mined: pd.DataFrame, key: Key) -> Chart:
    """Precision against recall of mined sets: hollow marks for search runs, filled for confirm."""
    import altair as alt

    base = alt.Chart(mined).encode(
        alt.X("recall:Q", scale=_percent(mined["recall"]), title="recall of the mined set (%)"),
        alt.Y(
            "precision:Q",
            scale=_percent(mined["precision"]),
            title="precision of the mined set (%)",
        ),
        color=_colour(mined, key),
        shape=_shape(mined, key),
    )
    return _styled(
        alt.layer(
            base.transform_filter("datum.role == 'search'").mark_point(filled=False, size=60),
            base.transform_filter("datum.role == 'confirm'").mark_point(filled=True, size=60),
        ).properties(width=WIDTH / 2, height=WIDTH / 2)
    )


def sensitivity(settings: pd.DataFrame, space: dict[str, Range], score: str, colour: str) -> Chart:
    """A panel per hyperparameter: the score of each trial by its value, the best one ringed.

    Values outside of a range, as a first trial may have, are not drawn.

    Args:
        settings: Of :func:`reports.trials.setting_frame`, in the order of the panels.
        space: The range of each hyperparameter.
        score: Title of the vertical axes.
        colour: Of the marks.
    """
    import altair as alt

    panels = []
    for name, values in settings.items():
        search = space[str(name)]
        shown = pd.DataFrame({"value": values.tolist(), "score": settings.index})
        shown["best"] = shown["score"] == shown["score"].max()
        if not isinstance(search, Choice):
            shown = shown[shown["value"].between(search.low, search.high)]
        y = alt.Y("score:Q", scale=_percent(settings.index), title=None)
        base = alt.Chart(shown).encode(_axis_of(search, str(name)), y)
        layers = alt.layer(
            base.mark_point(filled=True, color=colour),
            base.transform_filter("datum.best").mark_point(size=120, color="black"),
        )
        panels.append(layers.properties(width=WIDTH / COLUMNS - 30, height=120))
    return _styled(alt.concat(*panels, columns=COLUMNS, title=score).resolve_scale(y="shared"))


def _axis_of(search: Range, title: str, column: str = "value") -> alt.X:
    """The axis of a hyperparameter, as wide as its range."""
    import altair as alt

    if isinstance(search, Choice):
        values: Any = [*search.values]
        return alt.X(f"{column}:O", sort=values, title=title, axis=alt.Axis(labelAngle=0))
    if isinstance(search, Log):
        scale = alt.Scale(type="log", domain=[search.low, search.high])
        axis = alt.Axis(values=_ticks(search), labelExpr=_SHORT)
    else:
        scale = alt.Scale(domain=[search.low, search.high])
        axis = alt.Axis(tickCount=4, format="~g")
    return alt.X(f"{column}:Q", scale=scale, title=title, axis=axis)


_SHORT = "format(datum.value, datum.value < 0.001 ? '.0e' : '~g')"


def _ticks(search: Log) -> list[float]:
    """Round numbers in a logarithmic range: as coarse as leaves three, or else its ends."""
    powers = range(math.floor(math.log10(search.low)), math.ceil(math.log10(search.high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5)):
        ticks = [float(f"{step}e{power}") for power in powers for step in steps]
        within = [tick for tick in ticks if search.low <= tick <= search.high]
        if len(within) >= 3:
            return within
    return [search.low, search.high]


def _against_time(frame: pd.DataFrame, column: str, title: str, key: Key) -> alt.Chart:
    """A chart whose horizontal axis shows seconds in the unit that they are read in."""
    import altair as alt

    longest = frame[column].max()
    seconds, unit = (1, "s") if longest < 180 else (60, "min") if longest < 10800 else (3600, "h")
    return alt.Chart(frame.assign(time=frame[column] / seconds)).encode(
        alt.X("time:Q", scale=alt.Scale(zero=True), title=f"{title} ({unit})"),
        color=_colour(frame, key),
    )


def _percent(values: pd.Series[float] | pd.Index[float]) -> alt.Scale:
    """A scale a little wider than the values, but within 0 and 100."""
    import altair as alt

    margin = 0.05 * (values.max() - values.min()) + 0.1
    domain = [max(values.min() - margin, 0), min(values.max() + margin, 100)]
    return alt.Scale(domain=domain, nice=True)


def _colour(frame: pd.DataFrame, key: Key, **options: Any) -> alt.Color:
    import altair as alt

    names = sorted(frame["name"].unique())
    scale = alt.Scale(domain=names, range=[key.colour(name) for name in names])
    return alt.Color("name:N", scale=scale, title=None, **options)


def _shape(frame: pd.DataFrame, key: Key) -> alt.Shape:
    import altair as alt

    names = sorted(frame["name"].unique())
    scale = alt.Scale(domain=names, range=[key.shape(name) for name in names])
    return alt.Shape("name:N", scale=scale, title=None)


def _facet(column: str, **options: Any) -> alt.Facet:
    import altair as alt

    header = alt.Header(title=None, labelFontSize=12, labelFontWeight="bold", labelPadding=3)
    return alt.Facet(f"{column}:N", header=header, **options)


def _styled(chart: Chart) -> Chart:
    """The chart in the style that all share."""
    quiet = {"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal"}
    lines = {"gridColor": "#e8e8e8", "domainColor": "#888", "tickColor": "#888"}
    legend = {"labelFontSize": 12, "orient": "top", "offset": 4, "columns": 6, "symbolOpacity": 1}
    styled: Chart = chart.configure(
        font=FONT,
        background="white",
        aria=False,
        axis={**quiet, **lines, "labelFlush": False, "labelSeparation": 4},
        legend=legend,
        title={"fontSize": 12, "fontWeight": "normal", "anchor": "start"},
        view={"stroke": None},
        point={"size": 40, "opacity": 0.85},
    )
    return styled
