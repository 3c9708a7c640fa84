"""Published values: where they come from, what they are compared with, and what is said of it."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from harness import datasets, registry
from reports.published import METRICS, published, published_sections
from reports.section import Section

OURS = {
    "dataset": "cifar10c", "ratio": 1.0, "preset": "paper", "selection": "unbiased",
    "checkpoint": "last", "data_seed": 0.0, "method": "disent", "study": "s", "n": 4,
    "source": "this store", "backbone": "resnet18", "weights": "none",
    "unbiased": 35.0, "unbiased_std": 0.5, "conflicting": 30.0, "conflicting_std": 0.7,
    "worst_group": 1.0, "worst_group_std": math.nan,
}  # fmt: skip
THEIRS = "hyperparameters by unbiased, checkpoint last, theirs best test accuracy (authors' code)"


def sections(*changes: dict[str, object]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The rows of both tables for a board of results that differ from OURS."""
    made = published_sections(pd.DataFrame([OURS | change for change in changes], columns=[*OURS]))
    tables = {section.key: section.table.to_dict("records") for section in made}
    return tables.get("published", []), tables["reproduction"]


def test_the_file_is_sane() -> None:
    table = published()
    assert len(table) > 40
    assert set(table["method"]) <= {*registry.names()}
    assert set(table["metric"]) <= {*METRICS}
    assert table["value"].between(1, 100).all() and not (table["std"] > 10).any()
    assert table["source"].str.len().min() > 10
    assert not table.duplicated(["dataset", "ratio_percent", "metric", "method", "source"]).any()
    assert set(table["initialisation"]) <= {"scratch", "ImageNet", ""}
    for row in table.itertuples():
        ratios = datasets.get(row.dataset).ratios
        assert (len(ratios) == 1) if pd.isna(row.ratio_percent) else row.ratio_percent in ratios


def test_a_value_stands_beside_ours() -> None:
    rows, state = sections({})
    assert rows == [
        {
            "data set": "cifar10c", "%": "1", "method": "disent", "metric": "unbiased accuracy",
            "ours": "35.0 ± 0.5", "n": "4", "published": "36.49 ± 1.79", "difference": "-1.5",
            "within published std": "yes", "protocol": THEIRS, "source": "[3]",
        }
    ]  # fmt: skip
    (done,) = [row for row in state if row["here"] != "not run"]
    assert done["here"] == "35.0 ± 0.5 (paper)" and done["paper preset"] == "yes"
    assert len(state) == len(published())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"backbone": "cnn"}, "net cnn, theirs ResNet-18"),
        ({"backbone": ""}, "net not stated, theirs ResNet-18"),
        ({"weights": "imagenet"}, "initialisation ImageNet, theirs scratch"),
        ({"weights": "w.pt"}, "initialisation w.pt, theirs scratch"),
        ({"preset": "quick"}, "preset quick, not the authors' schedule"),
        ({"preset": ""}, "schedule not stated"),
        ({"dataset": "cifar10c:3"}, "data cifar10c:3"),
        ({"source": "theirs.csv"}, "results of theirs.csv"),
    ],
    ids=str,
)
def test_differences_in_protocol_are_said(change: dict[str, str], said: str) -> None:
    (row,), _ = sections(change)
    assert set(row["protocol"].split("; ")) == {said, THEIRS}


def test_no_comparison_is_silent_about_protocol() -> None:
    """Not even with equal nets: DCWP's Coloured MNIST, whose source tells little."""
    cmnist = {"dataset": "cmnist", "method": "dcwp"}
    rows, _ = sections(
        cmnist | {"ratio": 5.0, "backbone": "cnn"}, cmnist | {"ratio": 0.5, "backbone": "cnn"},
        cmnist | {"ratio": 5.0, "backbone": "mlp16", "preset": "quick"},
    )  # fmt: skip
    unknown, equal, other = (row["protocol"] for row in rows)
    assert "net cnn, theirs not stated; initialisation scratch, theirs not stated" in unknown
    assert "net" not in equal and "theirs not stated; published ratio inferred" in equal
    assert "net mlp16, theirs CNN" in other and "preset quick" in other
    every = [
        {"dataset": row.dataset, "method": row.method, "ratio": row.ratio_percent}
        for row in published().itertuples()
    ]
    rows, state = sections(*every)
    assert len(rows) >= len(state) == len(published())
    assert all("checkpoint last, theirs " in row["protocol"] for row in rows)


@pytest.mark.parametrize(
    ("change", "column", "value"),
    [
        ({"unbiased": 38.0}, "within published std", "yes"),
        ({"unbiased": 38.5}, "within published std", "no"),
        ({"unbiased": 34.5}, "within published std", "no"),
        ({"unbiased": 38.5}, "difference", "+2.0"),
        ({"method": "dcwp", "ratio": 5.0}, "within published std", "no std"),
        ({"dataset": "bffhq", "ratio": 0.5}, "ours", "30.0 ± 0.7"),
        ({"dataset": "waterbirds", "ratio": 5.0, "method": "jtt"}, "ours", "1.0"),
        ({"dataset": "waterbirds", "ratio": 5.0, "method": "jtt"}, "%", "–"),
    ],
)
def test_metrics_and_bounds(change: dict[str, object], column: str, value: str) -> None:
    (row,), _ = sections(change)
    assert row[column] == value


@pytest.mark.parametrize(
    "change",
    [
        {"ratio": 1.5},
        {"ratio": math.nan},
        {"dataset": "cifar10c_type1"},
        {"dataset": "cmnist"},
        {"method": "dfr"},
        {"unbiased": math.nan},
    ],
    ids=str,
)
def test_what_has_no_counterpart_is_not_compared(change: dict[str, object]) -> None:
    rows, state = sections(change)
    assert rows == [] and {row["here"] for row in state} == {"not run"}


def test_results_of_one_cell_stand_together_the_authors_schedule_first() -> None:
    quick = {"preset": "quick", "unbiased": 20.0}
    rows, state = sections(quick, {}, quick | {"selection": "ac", "source": "a.csv"})
    assert [row["ours"] for row in rows] == ["35.0 ± 0.5", "20.0 ± 0.5", "20.0 ± 0.5"]
    (done,) = [row for row in state if row["here"] != "not run"]
    assert done["here"] == "35.0 ± 0.5 (paper); 20.0 ± 0.5 (quick); 20.0 ± 0.5 (quick, a.csv)"
    _, state = sections(quick)
    assert [row["paper preset"] for row in state if row["here"] != "not run"] == ["no"]


def notes_of(section: Section) -> str:
    return " ".join(section.notes)


def test_an_empty_store_has_reproduced_nothing() -> None:
    (section,) = published_sections(pd.DataFrame())
    assert notes_of(section).startswith(f"0 of {len(published())} sourced published values")
    assert all(f"[{n}] " in notes_of(section) for n in range(1, 7))


def test_sources_keep_their_numbers_and_only_cited_ones_are_listed() -> None:
    beside, state = published_sections(pd.DataFrame([OURS]))
    (cited,) = [note for note in beside.notes if note.startswith("[")]
    assert cited.startswith("[3] Lee et al. 2021") and cited in state.notes
    assert notes_of(state).startswith(f"1 of {len(state.table)} sourced published values have a")
    assert "1 of them under the authors' schedule" in notes_of(state)
