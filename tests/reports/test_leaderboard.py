"""Means over seeds, ranks within equal conditions, everything unequal said."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from harness import reporting
from harness.ledger import Look, Record
from harness.reporting import View
from harness.space import Uniform
from harness.study import Metrics, Store, Study, Work
from reports.leaderboard import FAILURES, leaderboard, rankings
from reports.results import from_csv, from_store


def cells(*hits: int) -> list[list[int]]:
    return [[hits[0], hits[1]], [hits[2], hits[3]]]


@pytest.fixture
def fill(store: Store, make_study: Callable[..., Study]) -> Callable[..., Study]:
    """A study with one search trial and confirm runs that get so many of ten per cell right."""

    def fill(
        method: str,
        *confirm: tuple[int, int, int, int],
        labels: bool = False,
        metrics: Metrics | None = None,
        **fields: object,
    ) -> Study:
        study = make_study(method, base={"x": 0.5}, space={"x": Uniform(0, 1)}, **fields)
        store.create(study, 1, metrics)
        ledger = store.ledger(study.id)
        total = {split: cells(10, 10, 10, 10) for split in ("valid_unbiased", "test")}
        works = [Work(study.id, "search", 0, 0, study.base)]
        works += [Work(study.id, "confirm", 0, 1000 + i, study.base) for i in range(len(confirm))]
        for work, hits in zip(works, [(5, 5, 5, 5), *confirm], strict=True):
            correct = {"valid_unbiased": cells(*hits), "test": cells(*hits)}
            ledger.append(
                Record(
                    work.role, 0, work.seed, study.base, "finished", total,
                    [Look(1, 2.0, correct)], seconds=2.0, uses_bias_labels=labels,
                )
            )  # fmt: skip
        return study

    return fill


def board_of(store: Store, **options: str) -> pd.DataFrame:
    return leaderboard(from_store(store), **options)


def test_means_spreads_and_ranks(store: Store, fill: Callable[..., Study]) -> None:
    fill("plain", (10, 0, 2, 10), (10, 2, 0, 10))  # cells: aligned are the first and the last
    fill("better", (9, 9, 9, 9), (9, 9, 9, 5))
    board = board_of(store).set_index("method")
    assert list(board["rank"]) == [1, 2] and list(board.index) == ["better", "plain"]
    assert board.loc["plain", "unbiased"] == pytest.approx(55.0)
    assert board.loc["plain", "aligned"] == 100 and board.loc["plain", "conflicting"] == 10
    assert board.loc["better", "unbiased_std"] == pytest.approx(np.std([90, 80], ddof=1))
    assert board.loc["better", "worst_group"] == pytest.approx(70)  # mean of 90 and 50
    assert list(board["n"]) == [2, 2]
    assert list(board["search_seconds"]) == [2.0, 2.0]
    assert board.loc["better", ["low", "high"]].tolist() == [80, 90]


def test_the_data_set_says_which_metric_ranks(store: Store, fill: Callable[..., Study]) -> None:
    worst = Metrics("worst_group_accuracy", "group_mean_accuracy")
    fill("average", (10, 10, 10, 0), metrics=worst)
    fill("even", (4, 4, 4, 4), metrics=worst)
    board = board_of(store)
    assert list(board["method"]) == ["even", "average"]
    (ranking,) = rankings(board)
    assert "Ranked by worst group accuracy" in ranking.notes[1]


def test_unequal_conditions_are_never_ranked_together(
    store: Store, fill: Callable[..., Study]
) -> None:
    for change in (
        {},
        {"preset": "paper"},
        {"ratio": 5.0},
        {"select": "worst-group"},
        {"data_seed": 1},
    ):
        fill("m", (9, 9, 9, 9), **change)
    board = board_of(store)
    assert set(board["rank"]) == {1} and len(board) == 5
    sections = rankings(board)
    stated = {(section.title, section.notes[0]) for section in sections}
    assert len(stated) == len({section.key for section in sections}) == 5
    assert any("preset paper" in section.title for section in sections)
    assert all("needs bias labels" in section.notes[0] for section in sections)
    assert sum("Data seed 1" in section.notes[0] for section in sections) == 1


def test_what_differs_within_a_ranking_is_said(store: Store, fill: Callable[..., Study]) -> None:
    fill("a", (9, 9, 9, 9), (8, 8, 8, 8))
    fill("b", (9, 9, 9, 9))
    runs = from_store(store)
    runs["backbone"] = runs["method"].map({"a": "cnn", "b": "mlp"})
    (ranking,) = rankings(leaderboard(runs))
    said = " ".join(ranking.notes)
    assert "Networks differ within this ranking: cnn, mlp." in said
    assert "Unequal numbers of seeds: b 1, a 2." in said


def test_equal_results_share_a_rank(store: Store, fill: Callable[..., Study]) -> None:
    for method, hits in (("a", 9), ("b", 9), ("c", 8)):
        fill(method, (hits,) * 4)
    assert list(board_of(store)["rank"]) == [1, 1, 3]


def test_two_studies_of_one_method_are_told_apart(store: Store, fill: Callable[..., Study]) -> None:
    first, second = fill("m", (9, 9, 9, 9)), fill("m", (8, 8, 8, 8), code="edited")
    (ranking,) = rankings(board_of(store))
    assert list(ranking.table["method"]) == [f"m {first.id[-8:]}", f"m {second.id[-8:]}"]


def test_a_table_shows_means_with_spreads(store: Store, fill: Callable[..., Study]) -> None:
    assert rankings(board_of(store)) == []
    fill("m", (9, 9, 9, 9), (9, 9, 9, 5))
    (ranking,) = rankings(board_of(store))
    row = ranking.table.iloc[0]
    assert row["unbiased"] == "85.0 ± 7.1" and row["95 % interval"] == "80.0–90.0"
    assert row["n"] == "2" and row["labels in training"] == "no"


def test_only_the_winners_confirm_runs_count(store: Store, fill: Callable[..., Study]) -> None:
    study = fill("m", (9, 9, 9, 9))
    ledger = store.ledger(study.id)
    better = Record(
        "search", 1, 0, study.base, "finished", {"valid_unbiased": cells(10, 10, 10, 10)},
        [Look(1, 1.0, {"valid_unbiased": cells(10, 10, 10, 10)})],
    )  # fmt: skip
    ledger.append(better)  # more trials found another winner, which is not confirmed yet
    assert from_store(store).empty and board_of(store).empty


FAILING = """dataset,ratio,method,seed,unbiased,worst_group
cells,1,good,0,80,60
cells,1,good,1,90,70
cells,1,bad,0,70,50
cells,1,bad,1,,
cells,1,bad,2,0,0
"""


@pytest.mark.parametrize(
    ("failures", "n", "mean"),
    [
        ("leave-out", 1, 70),
        ("keep", 2, 35),  # the zeros count, the missing number cannot
        ("impute-worst", 3, 70),  # 70 is the worst number of the ranking
    ],
)
def test_failures_are_left_out_kept_or_imputed(
    tmp_path, failures: str, n: int, mean: float
) -> None:
    (tmp_path / "f.csv").write_text(FAILING)
    board = leaderboard(from_csv(tmp_path / "f.csv"), failures).set_index("method")
    assert board.loc["bad", "n"] == n and board.loc["bad", "runs"] == 3
    assert board.loc["bad", "unbiased"] == pytest.approx(mean)
    assert board.loc["good", "unbiased"] == 85 and board.loc["good", "n"] == 2
    (ranking,) = rankings(leaderboard(from_csv(tmp_path / "f.csv"), failures), failures)
    assert FAILURES[failures] in ranking.notes[1]


def test_a_method_without_any_result_stays_visible(tmp_path) -> None:
    (tmp_path / "f.csv").write_text("dataset,method,seed,acc\nd,dead,0,nan\nd,alive,0,50\n")
    board = leaderboard(from_csv(tmp_path / "f.csv")).set_index("method")
    assert board.loc["dead", "n"] == 0 and math.isnan(board.loc["dead", "rank"])
    (ranking,) = rankings(board.reset_index())
    assert list(ranking.table["#"]) == ["1", "–"]
    assert list(ranking.table["n"]) == ["1", "0 of 1"]


def test_methods_that_train_on_bias_labels_can_be_left_out(
    store: Store, fill: Callable[..., Study], capsys: pytest.CaptureFixture[str]
) -> None:
    fill("told", (9, 9, 9, 9), labels=True)
    fill("blind", (8, 8, 8, 8))
    reporting.leaderboard(store, View("csv", no_bias_labels=True))
    assert "blind" in (text := capsys.readouterr().out) and "told" not in text
    reporting.leaderboard(store, View("csv"))
    assert "told" in capsys.readouterr().out


def test_a_report_reads_each_ledger_once(
    store: Store,
    fill: Callable[..., Study],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill("a", (9, 9, 9, 9)), fill("b", (8, 8, 8, 8))
    read: list[str] = []
    original = Store.ledger
    monkeypatch.setattr(Store, "ledger", lambda self, i: read.append(i) or original(self, i))
    reporting.leaderboard(store, View("markdown"))
    assert "a" in capsys.readouterr().out
    assert sorted(read) == sorted(study.id for study in store.studies())
