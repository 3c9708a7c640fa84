"""Figures: a mark per trial, where it belongs, in SVG that any page can show."""

from __future__ import annotations

import re
import struct
from collections import Counter
from xml.etree import ElementTree

import pandas as pd
import pytest

from harness.space import Choice, Integer, Log, Uniform
from reports import plots
from reports.plots import COLOURS, Key

SVG = "{http://www.w3.org/2000/svg}"
KEY = Key(("dcwp", "erm", "mrm"))
TRIALS = pd.DataFrame(
    {
        "name": ["dcwp"] * 3 + ["mrm"] * 2,
        "tried": [1, 2, 3, 1, 2],
        "score": [60.0, None, 80.0, 50.0, 40.0],
        "best": [60.0, 60.0, 80.0, 50.0, 50.0],
        "elapsed": [100.0, 200.0, 400.0, 50.0, 7200.0],
        "density": [100.0, None, 50.0, 75.0, 25.0],
    }
)
CHANCES = pd.DataFrame(
    {"name": "dcwp", "k": [1, 2], "expected": [70, 80], "low": [60, 80], "high": [80, 80]}
)
LOOKS = pd.DataFrame(
    {
        "name": ["dcwp"] * 4,
        "seed": [1000, 1000, 1001, 1001],
        "step": [1, 2, 1, 2],
        "seconds": [10.0, 20.0, 11.0, 19.0],
        "unbiased": [30.0, 40.0, 35.0, 45.0],
        "conflicting": [20.0, 30.0, 25.0, 35.0],
    }
)
MINED = pd.DataFrame(
    {
        "name": ["dcwp", "dcwp", "mrm"],
        "role": ["search", "confirm", "confirm"],
        "precision": [90.0, 95.0, 50.0],
        "recall": [80.0, 85.0, 60.0],
    }
)
SPACE = {
    "lr": Log(1e-4, 1.0),
    "decay": Log(1e-6, 1e-2),
    "q": Uniform(0, 1),
    "depth": Integer(1, 9),
    "rule": Choice(("wrong", "confident")),
}
SETTINGS = pd.DataFrame(
    {
        "lr": [1e-4, 1e-2, 1.0],
        "decay": [0.0, 1e-5, 1e-3],  # the first is outside of the range
        "q": [0.1, 0.5, 0.9],
        "depth": [2, 3, 9],
        "rule": ["wrong", "confident", "wrong"],
    },
    pd.Index([50.0, 60.0, 55.0], name="score"),
)


def figures() -> dict[str, plots.Chart]:
    return {
        "best of k": plots.best_of_k(TRIALS, CHANCES, "accuracy (%)", KEY),
        "compute": plots.compute(TRIALS, "accuracy (%)", KEY),
        "density": plots.density(TRIALS.dropna(), "accuracy (%)", KEY),
        "learning": plots.learning(LOOKS, KEY),
        "mining": plots.mining(MINED, KEY),
        "sensitivity": plots.sensitivity(SETTINGS, SPACE, "accuracy (%)", COLOURS[0]),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return {name: plots.svg(chart) for name, chart in figures().items()}


def marks(figure: str, kind: str) -> list[ElementTree.Element]:
    """The marks of a kind, such as one symbol per datum; axes and legends left out."""
    groups = [
        group
        for group in ElementTree.fromstring(figure).iter(f"{SVG}g")
        if group.get("class", "").startswith(f"mark-{kind} role-mark")
    ]
    return [mark for group in groups for mark in group]


def position(mark: ElementTree.Element) -> tuple[float, float]:
    x, y = re.fullmatch(r"translate\(([-\d.]+),([-\d.]+)\)", mark.get("transform", "")).groups()
    return float(x), float(y)


def words(figure: str) -> list[str]:
    return [each.text for each in ElementTree.fromstring(figure).iter(f"{SVG}text")]


def test_figures_scale_fetch_nothing_and_keep_letters_as_text(drawn: dict[str, str]) -> None:
    for figure in drawn.values():
        root = ElementTree.fromstring(figure)
        width, height = (float(root.get(side)) for side in ("width", "height"))
        assert root.get("viewBox") == f"0 0 {width:g} {height:g}" and width <= 720
        names = {element.tag.removeprefix(SVG) for element in root.iter()}
        assert not names & {"image", "script", "style", "a", "foreignObject"}
        assert not re.search(r"(href|src)=|url\((?!#)", figure)
        fonts = {each.get("font-family") for each in root.iter(f"{SVG}text")}
        assert fonts == {plots.FONT}
    assert "compute of the search (min)" in words(drawn["compute"])
    assert {"dcwp", "mrm", "trials", "accuracy (%)"} <= {*words(drawn["best of k"])}


def test_equal_frames_give_equal_bytes(drawn: dict[str, str]) -> None:
    chart = figures()["compute"]
    assert plots.svg(chart) == drawn["compute"] == plots.svg(chart)


def test_every_trial_has_its_mark(drawn: dict[str, str]) -> None:
    scored = Counter({COLOURS[0]: 2, COLOURS[2]: 2})
    for name in ("best of k", "compute", "density"):
        assert Counter(mark.get("fill") for mark in marks(drawn[name], "symbol")) == scored, name
    assert len(marks(drawn["compute"], "line")) == 2
    assert len(marks(drawn["learning"], "line")) == 4  # two seeds in two panels
    assert len(marks(drawn["learning"], "symbol")) == 8
    filled = [mark.get("fill") for mark in marks(drawn["mining"], "symbol")]
    assert Counter(filled) == {None: 1, COLOURS[0]: 1, COLOURS[2]: 1}


def test_marks_are_where_the_values_are(drawn: dict[str, str]) -> None:
    by_colour: dict[str, list[tuple[float, float]]] = {}
    for mark in marks(drawn["density"], "symbol"):
        by_colour.setdefault(mark.get("fill"), []).append(position(mark))
    dense, pruned = by_colour[COLOURS[0]]
    middle, sparse = by_colour[COLOURS[2]]
    assert dense[0] - middle[0] == pytest.approx(middle[0] - pruned[0])  # 100, 75, 50
    assert middle[0] - pruned[0] == pytest.approx(pruned[0] - sparse[0])  # 75, 50, 25
    assert dense[1] - pruned[1] == pytest.approx(2 * (middle[1] - dense[1]))  # 60, 80, 50; y falls


def test_a_panel_per_hyperparameter_on_the_scale_of_its_range(drawn: dict[str, str]) -> None:
    symbols = [
        position(m) for m in marks(drawn["sensitivity"], "symbol") if m.get("fill") == COLOURS[0]
    ]
    rings = [m for m in marks(drawn["sensitivity"], "symbol") if m.get("fill") != COLOURS[0]]
    assert len(symbols) == 5 * 3 - 1 and len(rings) == 5
    lr, decay, q = symbols[:3], symbols[3:5], symbols[5:8]
    width = plots.WIDTH / plots.COLUMNS - 30
    assert [x for x, _ in lr] == pytest.approx([0, width / 2, width])
    assert [x for x, _ in decay] == pytest.approx([width / 4, 3 * width / 4])
    assert [x for x, _ in q] == pytest.approx([0.1 * width, 0.5 * width, 0.9 * width])
    titles = [word for word in words(drawn["sensitivity"]) if word in SPACE]
    assert titles == list(SPACE)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1e-10, 1e-6, [1e-10, 1e-9, 1e-8, 1e-7, 1e-6]),
        (3e-3, 0.1, [3e-3, 0.01, 0.03, 0.1]),
        (0.25, 4, [0.3, 1, 3]),
        (20, 200, [20, 50, 100, 200]),
        (1.2, 1.8, [1.2, 1.8]),
    ],
)
def test_logarithmic_axes_have_round_ticks(low: float, high: float, ticks: list[float]) -> None:
    assert plots._ticks(Log(low, high)) == ticks


def test_methods_are_told_apart_by_colour_and_shape() -> None:
    names = tuple(f"method {number:02}" for number in range(49))
    key = Key(names)
    assert len({(key.colour(name), key.shape(name)) for name in names}) == 49
    assert len({key.colour(name) for name in names[:7]}) == 7
    assert len({key.shape(name) for name in names[:7]}) == 7


def test_a_figure_as_pixels(drawn: dict[str, str]) -> None:
    pixels = plots.png(drawn["mining"], scale=3)
    assert pixels.startswith(b"\x89PNG")
    root = ElementTree.fromstring(drawn["mining"])
    size = struct.unpack(">II", pixels[16:24])
    assert size == (3 * int(root.get("width")), 3 * int(root.get("height")))
