"""The chapter on sweeps: what it says of hand-made searches, and what it must not look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from xml.etree import ElementTree

import pytest

from harness.ledger import Look, Record
from harness.space import Log
from harness.study import Store, Study
from reports.section import Section
from reports.sweeps import CHAPTER, sweep_sections

TOTAL = {"valid_unbiased": [[100, 0], [0, 100]], "test": [[100, 100], [100, 100]]}
BASE = {"lr": 0.01, "seed_rule": "x"}
SPACE = {"lr": Log(1e-4, 1.0)}


def run(role: str, number: int, seed: int, score: int, **fields: object) -> Record:
    """A run with `score` percent on unbiased validation and two looks at the test split."""
    tables = {"valid_unbiased": [[score, 0], [0, score]], "test": [[score, 1], [1, score]]}
    known = {
        "settings": BASE | {"lr": 10.0 ** -(number / 2 + 1)},
        "status": "finished",
        "total": TOTAL,
        "looks": [Look(1, 100.0, tables), Look(2, 200.0, tables)],
        "seconds": 360.0,
    }
    return Record(role, number, seed, **(known | fields))


def pruned(number: int, score: int, density: float) -> Record:
    return run("search", number, 0, score, metrics={"density": density})


@pytest.fixture
def fill(store: Store, make_study: Callable[..., Study]) -> Callable[..., Study]:
    """A study with the given records."""

    def fill(method: str, *records: Record, **fields: object) -> Study:
        study = make_study(method, **({"base": BASE, "space": SPACE} | fields))
        store.create(study, 1)
        for record in records:
            store.ledger(study.id).append(record)
        return study

    return fill


@pytest.fixture
def two_methods(fill: Callable[..., Study]) -> None:
    fill("mrm", pruned(0, 50, 1.0), pruned(1, 60, 0.4))
    mined = {"mining/size": 9.0, "mining/precision": 0.5, "mining/recall": 0.25}
    stages = [{"name": "mine", "key": "k", "seconds": 36.0, "reused": True}]
    fill(
        "dcwp",
        run("search", 0, 0, 70),
        run("search", 1, 0, 20, status="failed", looks=[], error="loss is not finite"),
        run("search", 2, 0, 90, metrics=mined, stages=stages),
        run("search", 3, 0, 80),
        run("search", 4, 0, 40),
        run("confirm", 2, 1000, 75, metrics=mined | {"mining/precision": 0.7}),
        run("confirm", 2, 1001, 77, metrics=mined | {"mining/precision": 0.9}),
    )


def by_key(sections: list[Section]) -> dict[str, Section]:
    return {section.key.split("-", 2)[2]: section for section in sections}


def table(section: Section) -> list[dict[str, str]]:
    return section.table.to_dict("records")


def test_the_chapter_in_numbers(store: Store, two_methods: None) -> None:
    sections = sweep_sections(store, store.studies())
    assert {section.chapter for section in sections} == {CHAPTER}
    found = by_key(sections)
    assert list(found) == ["trials", "settings", "density", "mining", "learning", "compute"]
    assert found["trials"].title == (
        "tiny, 12.5 % conflicting, preset quick, rule unbiased: trials"
    )
    dcwp, mrm = table(found["trials"])
    assert dcwp == {
        "method": "dcwp",
        "trials": "5 (1 failed)",
        "best trial": "90.0",
        "its number": "2",
        "its density (%)": "–",
        "median trial": "75.0",
        "10–90 %": "49.0 to 87.0",
        "trial 0": "70.0",
        "s/trial": "360",
        "h search": "0.50",
    }
    assert mrm["its density (%)"] == "40.0" and mrm["its number"] == "1"
    first, second = table(found["settings"])
    assert first == {
        "method": "dcwp",
        "hyperparameter": "lr",
        "range": "0.0001 … 1 (log)",
        "trial 0": "0.01",
        "best trial": "0.01",
        "importance": "1.00",
    }
    assert second["importance"] == "–" and second["best trial"] == "0.0316"  # of two trials
    confirm, search = table(found["mining"])
    assert confirm["runs"] == "2 confirm" and search["runs"] == "1 search"
    assert confirm["precision"] == "80.0 ± 14.1" and search["precision"] == "50.0"
    (stage,) = table(found["compute"])
    assert (stage["computed"], stage["reused"], stage["h saved"]) == ("0", "1", "0.01")
    assert "saved 0.01 h of 0.90 h" in found["compute"].notes[0]


def test_every_figure_can_be_shown_and_is_explained(store: Store, two_methods: None) -> None:
    sections = sweep_sections(store, store.studies())
    for section in sections:
        assert ElementTree.fromstring(section.figure).tag.endswith("svg")
        assert section.notes[-1].startswith("Figure: ")
        assert all(type(cell) is str for row in section.table.to_numpy() for cell in row)
    again = sweep_sections(store, store.studies()[::-1])
    assert [(s.key, s.notes, s.figure) for s in again] == [
        (s.key, s.notes, s.figure) for s in sections
    ]


def test_without_figures_the_tables_stay(store: Store, two_methods: None) -> None:
    drawn = sweep_sections(store, store.studies())
    plain = sweep_sections(store, store.studies(), figures=False)
    assert list(by_key(plain)) == ["trials", "settings", "mining", "compute"]
    for section in plain:
        assert not section.figure and "Figure" not in " ".join(section.notes)
        assert section.table.equals(by_key(drawn)[section.key.split("-", 2)[2]].table)


def test_the_test_results_of_search_runs_change_nothing(
    store: Store, fill: Callable[..., Study]
) -> None:
    study = fill("dcwp", pruned(0, 50, 1.0), pruned(1, 60, 0.4), run("confirm", 1, 1000, 55))
    before = sweep_sections(store, [study])
    for record in store.ledger(study.id).of("search"):
        looks = [
            dataclasses.replace(look, correct=look.correct | {"test": [[0, 99], [99, 0]]})
            for look in record.looks
        ]
        store.ledger(study.id).append(dataclasses.replace(record, looks=looks))
    after = sweep_sections(store, [study])
    assert [s.table.to_csv() for s in after] == [s.table.to_csv() for s in before]
    assert [(s.notes, s.figure) for s in after] == [(s.notes, s.figure) for s in before]


def test_there_is_no_figure_of_nothing(store: Store, fill: Callable[..., Study]) -> None:
    assert sweep_sections(store, [fill("planned")]) == []
    fill("fixed", run("search", 0, 0, 50, settings=BASE), space={})
    failed = run("search", 0, 0, 0, status="failed", looks=[], error="no")
    fill("broken", failed, dataclasses.replace(failed, number=1))
    (trials,) = sweep_sections(store, store.studies())
    assert trials.figure == ""
    broken, fixed = table(trials)
    assert broken["trials"] == "2 (2 failed)" and broken["best trial"] == "–"
    assert fixed["trials"] == "1" and "10–90 %" not in fixed


def test_conditions_are_in_the_titles(store: Store, fill: Callable[..., Study]) -> None:
    for fields in ({}, {"select": "worst-group"}, {"data_seed": 1}, {"ratio": 5.0}):
        fill("m", run("search", 0, 0, 50), **fields)
    sections = sweep_sections(store, store.studies())
    titles, keys = ({getattr(s, field) for s in sections} for field in ("title", "key"))
    assert len(titles) == len(keys) == len(sections) == 8
    assert "tiny, 12.5 % conflicting, preset quick, rule unbiased, data seed 1: trials" in titles


def test_the_figure_of_settings_shows_the_method_with_the_best_trial(
    store: Store, fill: Callable[..., Study]
) -> None:
    fill("good", run("search", 0, 0, 70), run("search", 1, 0, 60))
    fill("better", run("search", 0, 0, 50), run("search", 1, 0, 80))
    fill("best", run("search", 0, 0, 90))  # one trial shows no trend
    settings = by_key(sweep_sections(store, store.studies()))["settings"]
    assert "the trials of better" in settings.notes[-1]
    assert "better: unbiased validation accuracy (%)" in settings.figure
