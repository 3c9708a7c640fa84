"""What each rule would report: hand-made trials and looks of which every rule picks its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from harness.compose import Choice, compose
from harness.ledger import Look, Record
from harness.selection import CHECKPOINTS, LAST, RULES, best, best_look, oracle
from harness.study import Metrics, Store, Study
from reports.rules import rule_sections

ALIGNED = [[True, False], [False, True]]
TOTAL = {split: [[10, 10], [10, 10]] for split in ("valid_biased", "valid_unbiased", "test")}

# Of ten right per cell: train-biased validation, unbiased validation, test.
FIRST_AVERAGE = [(10, 6, 4, 10), (9, 1, 1, 9), (8, 2, 2, 8)]  # average 75, test 50
FIRST_WORST_CLASS = [(9, 6, 6, 9), (8, 3, 2, 8), (7, 4, 4, 7)]  # average and class 75, test 55
UNBIASED = [(7, 7, 7, 7), (9, 5, 6, 9), (6, 6, 6, 6)]  # unbiased 72.5, test 60
GROUP_AND_AC = [(8, 7, 7, 8), (7, 6, 6, 7), (9, 7, 7, 9)]  # 75, 75, group 60, ac 74.7, test 80
ORACLE = [(1, 1, 1, 1), (1, 1, 1, 1), (9, 9, 9, 9)]  # test 90
TABLES = [FIRST_AVERAGE, FIRST_WORST_CLASS, UNBIASED, GROUP_AND_AC, ORACLE]
PERFECT = [(10,) * 4] * 3

COLUMNS = ["average (no labels)", "worst-class (no labels)", "unbiased (labels)"]
COLUMNS += ["worst-group (labels)", "ac (labels)", "oracle (test)", "price of no labels"]


def look(step: int, tables: list[tuple[int, ...]], *without: str) -> Look:
    correct = {split: [list(t[:2]), list(t[2:])] for split, t in zip(TOTAL, tables, strict=True)}
    return Look(step, 1.0, {s: table for s, table in correct.items() if s not in without})


def run(role: str, number: int, seed: int, *tables: list[tuple[int, ...]], **fields) -> Record:
    looks = [look(step, each) for step, each in enumerate(tables, 1)]
    return dataclasses.replace(
        Record(role, number, seed, {}, "finished", dict(TOTAL), looks), **fields
    )


def without(record: Record, *splits: str) -> Record:
    looks = [
        dataclasses.replace(
            each, correct={s: c for s, c in each.correct.items() if s not in splits}
        )
        for each in record.looks
    ]
    total = {s: table for s, table in record.total.items() if s not in splits}
    return dataclasses.replace(record, looks=looks, total=total)


SEARCH = [run("search", number, 0, tables) for number, tables in enumerate(TABLES)]
CONFIRM = [run("confirm", 2, 1000, *TABLES), run("confirm", 2, 1001, *TABLES[::-1])]


@pytest.fixture
def fill(store: Store, make_study: Callable[..., Study]) -> Callable[..., Study]:
    def fill(records: list[Record], metrics: Metrics | None = None, **fields: object) -> Study:
        study = make_study(fields.pop("method", "m"), **fields)
        store.create(study, 1, metrics)
        ledger = store.ledger(study.id)
        for record in records:
            ledger.append(record)
        return study

    return fill


def tables_of(store: Store) -> tuple[pd.DataFrame, pd.DataFrame]:
    sections = rule_sections(store, store.studies())
    assert len(sections) == 2 and len({section.key for section in sections}) == 2
    return sections[0].table, sections[1].table


def test_what_each_rule_reports(store: Store, fill: Callable[..., Study]) -> None:
    fill([*SEARCH, *CONFIRM])
    trials, looks = tables_of(store)
    assert list(trials.columns) == ["method", "trials", "n", *COLUMNS]
    assert list(trials.iloc[0]) == [
        "m", "5", "1", "50.0", "55.0", "60.0 *", "80.0", "80.0", "90.0", "10.0"
    ]  # fmt: skip
    assert list(looks.columns) == ["method", "looks", "n", "last (no labels)", *COLUMNS]
    # The second run has the looks of the first in reverse, so ties end elsewhere.
    assert list(looks.iloc[0]) == [
        "m", "5", "2", "70.0 ± 28.3", "65.0 ± 21.2", "67.5 ± 17.7", "60.0 ± 0.0", "80.0 ± 0.0",
        "80.0 ± 0.0", "90.0 ± 0.0", "-5.0 ± 21.2",
    ]  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_a_studys_own_rule_picks_its_winner(
    store: Store, fill: Callable[..., Study], rule: str
) -> None:
    confirm = [dataclasses.replace(CONFIRM[0], number=number) for number in range(5)]
    study = fill([*SEARCH, *confirm], select=rule)
    winner = SEARCH[study.winner(store.ledger(study.id))]
    (marked,) = [cell for cell in tables_of(store)[0].iloc[0] if cell.endswith(" *")]
    assert marked == f"{100 * oracle('accuracy').value(winner, ALIGNED):.1f} *"


def test_search_seeds_are_averaged_and_all_needed(store: Store, fill: Callable[..., Study]) -> None:
    fill(
        [
            run("search", 0, 0, UNBIASED), run("search", 0, 1, UNBIASED),
            run("search", 1, 0, ORACLE), run("search", 1, 1, GROUP_AND_AC),  # test 85
            run("search", 2, 0, PERFECT), run("search", 2, 1, PERFECT, status="failed"),
            run("search", 3, 0, PERFECT), run("search", 3, 1, PERFECT, status="stopped"),
            run("search", 4, 0, PERFECT),
            run("confirm", 0, 1000, UNBIASED), run("confirm", 0, 1001, PERFECT, status="failed"),
        ],
        search_seeds=(0, 1),
    )  # fmt: skip
    trials, looks = tables_of(store)
    row = trials.iloc[0]
    assert (row["trials"], row["n"]) == ("2", "2")
    assert row["unbiased (labels)"] == "60.0 ± 0.0 *" and row["oracle (test)"] == "85.0 ± 7.1"
    assert (looks["n"][0], looks["unbiased (labels)"][0]) == ("1", "60.0")


def test_tests_stay_sealed_until_the_winner_is_confirmed(
    store: Store, fill: Callable[..., Study]
) -> None:
    fill(SEARCH)
    fill([*SEARCH, dataclasses.replace(CONFIRM[0], number=1)], method="another trial's")
    fill([*SEARCH, dataclasses.replace(CONFIRM[0], status="failed")], method="failed")
    assert rule_sections(store, store.studies()) == []


def test_runs_that_were_not_tested_show_a_dash(store: Store, fill: Callable[..., Study]) -> None:
    fill([*(without(r, "test") for r in SEARCH), *CONFIRM], method="old")
    some = [without(r, "test") if r.number == 0 else r for r in SEARCH]
    late = dataclasses.replace(  # tested at the last look alone
        CONFIRM[0], looks=[look(n, t, *["test"] * (n < 5)) for n, t in enumerate(TABLES, 1)]
    )
    fill([*some, late], method="part")
    trials, looks = (table.set_index("method") for table in tables_of(store))
    assert set(trials.loc["old", COLUMNS]) == {"–", "– *"}
    assert list(trials.loc["part", COLUMNS]) == [
        "–", "55.0", "60.0 *", "80.0", "80.0", "–", "–"
    ]  # fmt: skip
    assert looks.loc["part", "last (no labels)"] == "90.0" and looks.loc["part", "n"] == "1"
    assert set(looks.loc["part", COLUMNS]) == {"–"}
    assert looks.loc["old", "oracle (test)"] == "90.0 ± 0.0"


def test_without_an_unbiased_split_ac_sets_the_price(
    store: Store, fill: Callable[..., Study]
) -> None:
    records = [without(r, "valid_unbiased") for r in [*SEARCH, *CONFIRM]]
    fill([dataclasses.replace(r, number=3) if r.role == "confirm" else r for r in records],
         select="ac")  # fmt: skip
    trials, looks = tables_of(store)
    assert not any("unbiased" in c or "group" in c for c in [*trials.columns, *looks.columns])
    assert trials["ac (labels)"][0] == "80.0 *" and trials["price of no labels"][0] == "30.0"


def test_conditions_have_tables_of_their_own(store: Store, fill: Callable[..., Study]) -> None:
    records = [*SEARCH, *CONFIRM]
    first, second = fill(records), fill(records, code="edited")
    fill(records, method="a", select="unbiased")
    for change in ({"ratio": 5.0}, {"preset": "paper"}, {"data_seed": 1}, {"dataset": "other:2"}):
        fill(records, **change)
    sections = rule_sections(store, store.studies())
    assert len({s.key for s in sections}) == len({s.title for s in sections}) == 10
    together = max(sections, key=lambda section: len(section.table))
    names = sorted([first.id[-8:], second.id[-8:]])
    assert list(together.table["method"]) == ["a", *(f"m {name}" for name in names)]
    backwards = rule_sections(store, store.studies()[::-1])
    assert all(a.table.equals(b.table) for a, b in zip(sections, backwards, strict=True))


def test_scores_are_the_primary_metric(store: Store, fill: Callable[..., Study]) -> None:
    fill([*SEARCH, *CONFIRM], metrics=Metrics("worst_group_accuracy", "group_mean_accuracy"))
    sections = rule_sections(store, store.studies())
    assert sections[0].table["average (no labels)"][0] == "20.0"  # of 8, 2, 2, 8
    assert all("Test worst group accuracy" in section.notes[0] for section in sections)


def test_no_rule_that_can_be_named_reads_the_test_split() -> None:
    judge = oracle("accuracy")
    assert judge.name not in {*RULES, *CHECKPOINTS}
    with pytest.raises(ValueError, match="unknown selection rule 'oracle'"):
        compose(Choice(["erm"], ["synthetic"], [], select=judge.name))
    told = CONFIRM[0]
    changed = [
        dataclasses.replace(each, correct=each.correct | {"test": [[n, 0], [0, n]]})
        for n, each in enumerate(told.looks)
    ]
    other = dataclasses.replace(told, looks=changed)
    for name in CHECKPOINTS:
        assert best_look(told, name, ALIGNED) == best_look(other, name, ALIGNED)
        assert best_look(without(told, "test"), name, ALIGNED) == best_look(told, name, ALIGNED)
    assert judge.value(told, ALIGNED) != judge.value(other, ALIGNED)


def test_the_look_that_a_rule_picks() -> None:
    picks = {name: best_look(CONFIRM[0], name, ALIGNED) for name in CHECKPOINTS}
    assert picks == {
        LAST: 4, "average": 0, "worst-class": 1, "unbiased": 2, "worst-group": 3, "ac": 3
    }  # fmt: skip
    assert best_look(CONFIRM[1], "average", ALIGNED) == 1  # the earliest of three equals


def test_what_is_no_number_never_wins() -> None:
    assert best([np.nan, 0.1, np.nan, 0.2, 0.2]) == 3
    assert best([0.0, np.nan]) == 0
    assert best([np.nan]) is None and best([]) is None
    total = TOTAL | {"valid_biased": [[10, 0], [0, 10]]}
    one_sided = run("confirm", 0, 1000, [(7, 0, 0, 7), *UNBIASED[1:]], total=total)
    for record, rule in ((one_sided, "ac"), (without(CONFIRM[0], "valid_biased"), "average")):
        with pytest.raises(ValueError, match=f"^checkpoint rule {rule} has no value at any look"):
            best_look(record, rule, ALIGNED)


def test_other_arithmetic_is_another_table(store: Store, fill: Callable[..., Study]) -> None:
    for amp in (False, True):
        fill([*SEARCH, *CONFIRM], amp=amp)
    sections = rule_sections(store, store.studies())
    assert len({section.key for section in sections}) == 4
    assert sum("preset quick, bfloat16" in section.title for section in sections) == 2
    assert [len(section.table) for section in sections] == [1, 1, 1, 1]
