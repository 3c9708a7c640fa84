"""The leaderboard: means over seeds, ranks within equal conditions, conditions in the heading."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from harness import commands
from harness.ledger import Look, Record
from harness.space import Uniform
from harness.study import Store, Study, Work
from reports.leaderboard import confirmed_runs, leaderboard, presentable, titles, to_markdown


def cells(*hits: int) -> list[list[int]]:
    return [[hits[0], hits[1]], [hits[2], hits[3]]]


@pytest.fixture
def fill(store: Store, make_study: Callable[..., Study]) -> Callable[..., Study]:
    """A study with one search trial and confirm runs that get so many of ten per cell right."""

    def fill(
        method: str, *confirm: tuple[int, int, int, int], labels: bool = False, **fields: object
    ) -> Study:
        study = make_study(method, base={"x": 0.5}, space={"x": Uniform(0, 1)}, **fields)
        store.create(study, lookahead=1)
        ledger = store.ledger(study.id)
        total = {split: cells(10, 10, 10, 10) for split in ("valid_unbiased", "test")}
        works = [Work(study.id, "search", 0, 0, study.base)]
        works += [Work(study.id, "confirm", 0, 1000 + i, study.base) for i in range(len(confirm))]
        for work, hits in zip(works, [(5, 5, 5, 5), *confirm], strict=True):
            correct = {"valid_unbiased": cells(*hits)}
            if work.role == "confirm":
                correct["test"] = cells(*hits)
            ledger.append(
                Record(
                    work.role, 0, work.seed, study.base, "finished", total,
                    [Look(1, 2.0, correct)], seconds=2.0, uses_bias_labels=labels,
                )
            )  # fmt: skip
        return study

    return fill


def test_means_spreads_and_ranks(store: Store, fill: Callable[..., Study]) -> None:
    fill("plain", (10, 0, 2, 10), (10, 2, 0, 10))  # cells: aligned are the first and the last
    fill("better", (9, 9, 9, 9), (9, 9, 9, 5))
    board = leaderboard(confirmed_runs(store)).set_index("method")
    assert list(board["rank"]) == [1, 2] and list(board.index) == ["better", "plain"]
    assert board.loc["plain", "unbiased"] == pytest.approx(55.0)
    assert board.loc["plain", "aligned"] == 100 and board.loc["plain", "conflicting"] == 10
    assert board.loc["better", "unbiased_std"] == pytest.approx(np.std([90, 80], ddof=1))
    assert board.loc["better", "worst_group"] == pytest.approx(70)  # mean of 90 and 50
    assert list(board["n"]) == [2, 2]
    assert list(board["search_seconds"]) == [2.0, 2.0]


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
    board = leaderboard(confirmed_runs(store))
    assert set(board["rank"]) == {1}
    headings = [heading for heading, _ in titles(board)]
    assert len(headings) == len(set(headings)) == 5
    assert any("preset paper" in heading for heading in headings)
    assert all("needs bias labels" in heading for heading in headings)


def test_equal_results_share_a_rank(store: Store, fill: Callable[..., Study]) -> None:
    for method, hits in (("a", 9), ("b", 9), ("c", 8)):
        fill(method, (hits,) * 4)
    assert list(leaderboard(confirmed_runs(store))["rank"]) == [1, 1, 3]


def test_two_studies_of_one_method_are_told_apart(store: Store, fill: Callable[..., Study]) -> None:
    first, second = fill("m", (9, 9, 9, 9)), fill("m", (8, 8, 8, 8), code="edited")
    names = list(presentable(leaderboard(confirmed_runs(store)))["method"])
    assert names == [f"m {first.id[-8:]}", f"m {second.id[-8:]}"]


def test_markdown_is_complete_and_empty_without_results(
    store: Store, fill: Callable[..., Study]
) -> None:
    assert to_markdown(leaderboard(confirmed_runs(store))) == "\n"
    fill("m", (9, 9, 9, 9), (9, 9, 9, 5))
    text = to_markdown(leaderboard(confirmed_runs(store)))
    assert "| 85.0 ± 7.1 |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1


def test_methods_that_train_on_bias_labels_can_be_left_out(
    store: Store, fill: Callable[..., Study], capsys: pytest.CaptureFixture[str]
) -> None:
    fill("told", (9, 9, 9, 9), labels=True)
    fill("blind", (8, 8, 8, 8))
    commands.leaderboard(store, "csv", None, no_bias_labels=True)
    assert "blind" in (text := capsys.readouterr().out) and "told" not in text
    commands.leaderboard(store, "csv", None, no_bias_labels=False)
    assert "told" in capsys.readouterr().out


def test_only_the_winners_confirm_runs_count(store: Store, fill: Callable[..., Study]) -> None:
    study = fill("m", (9, 9, 9, 9))
    ledger = store.ledger(study.id)
    better = Record(
        "search", 1, 0, study.base, "finished", {"valid_unbiased": cells(10, 10, 10, 10)},
        [Look(1, 1.0, {"valid_unbiased": cells(10, 10, 10, 10)})],
    )  # fmt: skip
    ledger.append(better)  # more trials found another winner, which is not confirmed yet
    assert confirmed_runs(store).empty
    pd.testing.assert_frame_equal(leaderboard(confirmed_runs(store)), pd.DataFrame())
