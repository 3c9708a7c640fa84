"""Our results beside published ones: sources, what differs in protocol, what is reproduced."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from reports.results import THIS_STORE
from reports.section import Section, spread

CHAPTER = "Published and reproduced"

FILE = Path(__file__).with_name("published.csv")

METRICS = {
    "unbiased_accuracy": "unbiased",
    "average_group_accuracy": "unbiased",  # where the test split is not uniform in the attribute
    "conflicting_accuracy": "conflicting",
    "worst_group_accuracy": "worst_group",
}
"""Published metric -> column of a board."""

WEIGHTS = {"none": "scratch", "imagenet": "ImageNet"}
"""Initial weights as a board names them -> as the published table does."""

UNKNOWN = "not stated"


def published() -> pd.DataFrame:
    """Published results, by data set, ratio and method; none from memory, each with its source.

    Returns:
        dataset, ratio_percent (NaN where a data set has a single one), metric, method, value and
        std in percent (std NaN where unknown), and as text, empty where the source does not tell,
        backbone, initialisation, selection (of hyperparameters or checkpoints), source and note.
    """
    numbers = ["ratio_percent", "value", "std"]
    table = pd.read_csv(FILE, dtype=str, keep_default_na=False)
    table[numbers] = table[numbers].apply(pd.to_numeric)  # empty is NaN
    order = ["dataset", "ratio_percent", "metric", "method"]
    return table.sort_values(order, kind="stable", ignore_index=True)


def published_sections(board: pd.DataFrame) -> list[Section]:
    """Our means beside published values where both exist, and the state of every published one.

    Args:
        board: A row per conditions and method with `<metric>` and `<metric>_std` in percent, n,
            backbone and weights; may be empty.
    """
    table = published()
    matches = _matches(table, board)
    sources = list(dict.fromkeys(table["source"]))
    compared = [_beside(theirs, each, sources) for theirs, ours in matches for each in ours]
    state = [_state(theirs, ours, sources) for theirs, ours in matches]
    run = sum(bool(ours) for _, ours in matches)
    faithful = sum(row["paper preset"] == "yes" for row in state)
    sections = [
        Section(
            CHAPTER,
            "Ours beside the published values",
            pd.DataFrame(compared),
            (
                "Percent; ours is the mean ± standard deviation (ddof 1) over n confirm seeds, the "
                "difference ours minus published in points. Results without a sourced published "
                "value are not listed.",
                "Preset paper has the settings of a method's own authors, not of who ran it as a "
                "baseline; ERM has those of the authors of DCWP. Data sets made of MNIST or "
                "CIFAR-10 are built anew: other samples conflict than in the authors' images.",
                *_cited(sources, compared),
            ),
            key="published",
        ),
        Section(
            CHAPTER,
            "State of reproduction",
            pd.DataFrame(state),
            (
                f"{run} of {len(state)} sourced published values have a counterpart here, "
                f"{faithful} of them under the authors' schedule (preset paper).",
                "Nets, initialisation and selection differ between papers: values of one data set "
                "are not a ranking.",
                *_cited(sources, state),
            ),
            key="reproduction",
            detail=True,
        ),
    ]
    return sections if compared else sections[1:]


def _matches(table: pd.DataFrame, board: pd.DataFrame) -> list[tuple[Any, list[Any]]]:
    """Every published row with our results for it, those of preset paper first."""
    found: dict[tuple[str, str], list[Any]] = {}
    for each in _rows(board):
        # Variants of a data set, such as weaker corruptions, are compared and named.
        found.setdefault((each.dataset.partition(":")[0], each.method), []).append(each)
    matches = []
    for theirs in _rows(table):
        ours = [
            each
            for each in found.get((theirs.dataset, theirs.method), [])
            if (pd.isna(theirs.ratio_percent) or theirs.ratio_percent == each.ratio)
            and pd.notna(_mean(theirs, each))
        ]
        matches.append((theirs, sorted(ours, key=lambda each: each.preset != "paper")))
    return matches


def _rows(frame: pd.DataFrame) -> list[Any]:
    """Rows with a field per column, which the stubs do not know."""
    return list(frame.itertuples(index=False))


def _mean(theirs: Any, ours: Any) -> float:
    return float(getattr(ours, METRICS[theirs.metric]))


def _ours(theirs: Any, ours: Any) -> str:
    return spread(_mean(theirs, ours), getattr(ours, f"{METRICS[theirs.metric]}_std"))


def _beside(theirs: Any, ours: Any, sources: Sequence[str]) -> dict[str, str]:
    difference = _mean(theirs, ours) - theirs.value
    within = "yes" if abs(difference) <= theirs.std else "no"
    return _identity(theirs) | {
        "ours": _ours(theirs, ours),
        "n": str(int(ours.n)),
        "published": spread(theirs.value, theirs.std, 2),
        "difference": f"{difference:+.1f}",
        "within published std": "no std" if pd.isna(theirs.std) else within,
        "protocol": "; ".join(_differences(theirs, ours)),
        "source": _citation(theirs, sources),
    }


def _state(theirs: Any, ours: list[Any], sources: Sequence[str]) -> dict[str, str]:
    here = [f"{_ours(theirs, each)} ({', '.join(_origin(each))})" for each in ours]
    faithful = any(each.preset == "paper" for each in ours)
    return _identity(theirs) | {
        "net": f"{theirs.backbone} {theirs.initialisation}".strip() or UNKNOWN,
        "published": spread(theirs.value, theirs.std, 2),
        "here": "; ".join(here) or "not run",
        "paper preset": ("yes" if faithful else "no") if ours else "–",
        "source": _citation(theirs, sources),
    }


def _identity(theirs: Any) -> dict[str, str]:
    ratio = "–" if pd.isna(theirs.ratio_percent) else f"{theirs.ratio_percent:g}"
    return {
        "data set": theirs.dataset,
        "%": ratio,
        "method": theirs.method,
        "metric": theirs.metric.replace("_", " "),
    }


def _differences(theirs: Any, ours: Any) -> list[str]:
    """What a reader must know before believing the difference; never empty."""
    said = [] if ours.source == THIS_STORE else [f"results of {ours.source}"]
    if ours.dataset != theirs.dataset:
        said.append(f"data {ours.dataset}")
    net = theirs.backbone.lower().replace("-", "")
    if not net or net != ours.backbone:
        said.append(f"net {ours.backbone or UNKNOWN}, theirs {theirs.backbone or UNKNOWN}")
    start, their_start = WEIGHTS.get(ours.weights, ours.weights), theirs.initialisation
    if not start or start != their_start:
        said.append(f"initialisation {start or UNKNOWN}, theirs {their_start or UNKNOWN}")
    if not ours.preset:
        said.append(f"schedule {UNKNOWN}")
    elif ours.preset != "paper":
        said.append(f"preset {ours.preset}, not the authors' schedule")
    said.append(
        f"hyperparameters by {ours.selection or UNKNOWN}, checkpoint {ours.checkpoint or UNKNOWN}, "
        f"theirs {theirs.selection or UNKNOWN}"
    )
    return [*said, theirs.note] if theirs.note else said


def _origin(ours: Any) -> list[str]:
    return [ours.preset or "no preset"] + [ours.source] * (ours.source != THIS_STORE)


def _citation(theirs: Any, sources: Sequence[str]) -> str:
    return f"[{1 + sources.index(theirs.source)}]"


def _cited(sources: Sequence[str], rows: list[dict[str, str]]) -> list[str]:
    """The sources that rows refer to, as notes."""
    cited = {row["source"] for row in rows}
    return [f"[{n}] {text}." for n, text in enumerate(sources, 1) if f"[{n}]" in cited]
