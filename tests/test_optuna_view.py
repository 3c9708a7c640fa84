"""Optuna's view: what the searcher was told, in a file that optuna-dashboard reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from harness.ledger import Ledger, Record
from harness.optuna_view import MIN_TRIALS, importances, to_optuna, write_storage
from harness.proposals import Proposals
from harness.space import Choice, Integer, Log, Settings, Uniform
from harness.study import Store, Study, Work

SPACE = {"a": Log(1e-4, 1.0), "b": Uniform(0.0, 1.0), "c": Choice(("x", "y")), "d": Integer(1, 9)}
BASE: Settings = {"a": 0.01, "b": 0.5, "c": "x", "d": 2, "fixed": 7}


@pytest.fixture
def study(store: Store, make_study: Callable[..., Study]) -> Study:
    study = make_study(base=BASE, space=SPACE, search_seeds=(0, 1))
    store.create(study, lookahead=1)
    return study


@pytest.fixture
def record(store: Store, study: Study, make_record: Callable[..., Record]) -> Callable[..., Record]:
    """Appends a search record with the given accuracies at its looks."""

    def record(number: int, seed: int, *accuracies: float, **fields: object) -> Record:
        settings = fields.pop("settings", BASE)
        work = Work(study.id, "search", number, seed, settings)
        made = dataclasses.replace(make_record(work, *accuracies), **fields)
        store.ledger(study.id).append(made)
        return made

    return record


def opened(store: Store, study: Study) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(store.optuna_journal)))
    return optuna.load_study(study_name=study.id, storage=storage)


def test_trials_are_those_of_the_ledger(
    store: Store, study: Study, record: Callable[..., Record]
) -> None:
    record(0, 0, 0.1, 0.2, seconds=3.0, started="2026-01-02T03:04:05+00:00")
    record(0, 1, 0.3, 0.6, 0.5, seconds=4.0, started="2026-01-02T03:04:10+00:00")
    record(1, 0, 0.7)
    record(1, 1, 0.8, status="failed", error="loss is not finite")
    record(2, 0, 0.4, 0.5, status="stopped")
    record(2, 1, 0.6, 0.7)
    record(4, 0, 0.9)  # seed 1 of trial 4 and all of trial 3 are still to come
    write_storage(store, [study])
    view = opened(store, study)
    first, failed, stopped, missing, begun = view.trials
    states = [trial.state.name for trial in view.trials]
    assert states == ["COMPLETE", "FAIL", "PRUNED", "WAITING", "WAITING"]
    assert [trial.number for trial in view.trials] == [0, 1, 2, 3, 4]
    assert first.params == {"a": 0.01, "b": 0.5, "c": "x", "d": 2}
    assert first.distributions["a"] == FloatDistribution(1e-4, 1.0, log=True)
    assert first.distributions["c"] == CategoricalDistribution(("x", "y"))
    assert first.value == pytest.approx((0.2 + 0.5) / 2)
    assert first.intermediate_values == pytest.approx({1: 0.2, 2: 0.4})  # looks that both have
    assert first.user_attrs == {"seeds": [0, 1], "seconds": 7.0, "errors": []}
    assert first.datetime_start.astimezone() == datetime.fromisoformat("2026-01-02T03:04:05+00:00")
    assert first.datetime_complete - first.datetime_start == timedelta(seconds=9)
    assert failed.value is None and failed.user_attrs["errors"] == ["loss is not finite"]
    assert stopped.value == pytest.approx((0.5 + 0.7) / 2)
    assert missing.params == {} and begun.value is None
    assert view.best_trial.number == 0
    assert view.user_attrs["method"] == "toy" and "unbiased" in view.user_attrs["value"]


def test_optuna_sees_what_the_searcher_was_told(
    study: Study, make_record: Callable[..., Record], tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    proposals = Proposals(study, ledger, trials=12, lookahead=1)
    while isinstance(work := proposals.next(), Work):
        status = {4: "failed", 6: "stopped"}.get(work.number, "finished")
        ledger.append(make_record(work, 0.1, float(work.settings["b"]), status=status))
    assert proposals.finished
    facts = [
        [(t.number, t.state, t.params, t.distributions, t.value) for t in view.trials]
        for view in (proposals._optuna, to_optuna(study, ledger))
    ]
    assert len(facts[0]) == 12 and facts[0] == facts[1]


def test_a_first_trial_outside_of_the_ranges_keeps_its_values_as_attributes(
    store: Store, make_study: Callable[..., Study], make_record: Callable[..., Record]
) -> None:
    study = make_study(base=BASE | {"a": 0.0, "c": "z"}, space=SPACE)
    ledger = store.ledger(study.id)
    ledger.append(make_record(Work(study.id, "search", 0, 0, study.base), 0.9))
    (trial,) = to_optuna(study, ledger).trials
    assert trial.state is TrialState.COMPLETE and trial.params == {"b": 0.5, "d": 2}
    assert trial.user_attrs["a"] == 0.0 and trial.user_attrs["c"] == "z"


def test_the_test_split_of_a_search_run_stays_sealed(
    store: Store, study: Study, record: Callable[..., Record]
) -> None:
    made = record(0, 0, 0.25)
    record(0, 1, 0.25)
    write_storage(store, [study])
    before = store.optuna_journal.read_bytes()
    made.total["test"] = [[1000, 0], [0, 0]]
    made.looks[-1].correct["test"] = [[777, 0], [0, 0]]
    store.ledger(study.id).append(made)
    write_storage(store, [study])
    assert store.optuna_journal.read_bytes() == before


def test_the_storage_is_made_anew_from_the_ledgers(
    store: Store, study: Study, record: Callable[..., Record], make_study: Callable[..., Study]
) -> None:
    other = make_study("other")
    record(0, 0, 0.25)
    record(0, 1, 0.25)
    write_storage(store, [study, other])
    first = store.optuna_journal.read_bytes()
    with store.optuna_journal.open("a") as file:
        file.write('{"op_code": 5, "stud')  # torn, as by an editor or a full disk
    write_storage(store, [study, other])
    assert store.optuna_journal.read_bytes() == first
    record(1, 0, 0.5)
    record(1, 1, 0.5)
    write_storage(store, [study, other])
    assert opened(store, study).best_value == 0.5 and opened(store, other).trials == []
    assert {path.name for path in store.root.iterdir()} <= {
        "studies",
        "optuna.journal",
        "optuna.lock",
    }


def fill(
    ledger: Ledger, make_record: Callable[..., Record], values: list[float], **settings
) -> None:
    """One-seed trials; settings are functions of the trial number."""
    for number, value in enumerate(values):
        chosen = {name: function(number) for name, function in settings.items()}
        ledger.append(make_record(Work("s", "search", number, 0, chosen), value))


def test_importance_finds_what_matters(
    make_study: Callable[..., Study], make_record: Callable[..., Record], tmp_path: Path
) -> None:
    study = make_study(space={"idle": Uniform(0, 1), "lr": Log(1e-4, 1.0)}, base={})
    ledger = Ledger(tmp_path / "ledger")
    exponents = [number / 19 for number in range(20)]
    fill(
        ledger,
        make_record,
        [1 - abs(exponent - 0.75) for exponent in exponents],
        lr=lambda n: 10 ** (-4 * exponents[n]),
        idle=lambda n: n * 7 % 20 / 20,
    )
    shares = importances(study, ledger)
    assert list(shares) == ["lr", "idle"]
    assert sum(shares.values()) == pytest.approx(1) and shares["lr"] > 0.9


def test_equally_important_hyperparameters_come_in_the_order_of_the_space(
    make_study: Callable[..., Study], make_record: Callable[..., Record], tmp_path: Path
) -> None:
    names = list("hgfedcba")
    study = make_study(space={name: Uniform(0, 10) for name in names}, base={})
    ledger = Ledger(tmp_path / "ledger")
    fill(ledger, make_record, [n / 10 for n in range(9)], **{name: float for name in names})
    assert importances(study, ledger) == pytest.approx({name: 1 / 8 for name in names})
    assert list(importances(study, ledger)) == names


def test_importance_is_of_the_finished_trials_within_the_ranges(
    make_study: Callable[..., Study], make_record: Callable[..., Record], tmp_path: Path
) -> None:
    study = make_study(space={"a": Uniform(0, 1), "b": Uniform(0, 1)}, base={})
    inside, all_of_them = Ledger(tmp_path / "inside"), Ledger(tmp_path / "all")
    values = [0.2, 0.5, 0.3, 0.9, 0.6, 0.7]
    for ledger in (inside, all_of_them):
        fill(ledger, make_record, values, a=lambda n: n / 10, b=lambda n: n * 3 % 7 / 10)
    for number, status, a in ((6, "finished", 7.0), (7, "stopped", 0.9), (8, "failed", 0.9)):
        work = Work("s", "search", number, 0, {"a": a, "b": 0.9})
        all_of_them.append(make_record(work, 0.99, status=status))
    assert importances(study, all_of_them) == importances(study, inside)


@pytest.mark.parametrize(
    "values", [[0.1, 0.2, 0.3], [0.5] * 6, [0.9, 0.5, 0.5, 0.5]], ids=["few", "equal", "tied"]
)
def test_no_importance_is_made_up(
    make_study: Callable[..., Study],
    make_record: Callable[..., Record],
    tmp_path: Path,
    values: list[float],
    recwarn: pytest.WarningsRecorder,
) -> None:
    study = make_study(space={"a": Uniform(0, 1), "b": Uniform(0, 1)}, base={})
    ledger = Ledger(tmp_path / "ledger")
    fill(ledger, make_record, values, a=lambda n: n / 10, b=lambda n: (n % 2) / 2)
    assert MIN_TRIALS == 4
    assert importances(study, ledger) is None
    assert not recwarn.list


def test_optuna_dashboard_opens_the_storage(
    store: Store, study: Study, record: Callable[..., Record]
) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    from werkzeug.test import Client

    record(0, 0, 0.25)
    record(0, 1, 0.75)
    write_storage(store, [study])
    client = Client(dashboard.wsgi(JournalStorage(JournalFileBackend(str(store.optuna_journal)))))
    assert b"<html" in client.get("/dashboard/").data
    (summary,) = client.get("/api/studies").json["study_summaries"]
    assert summary["study_name"] == study.id
    (trial,) = client.get(f"/api/studies/{summary['study_id']}?after=0").json["trials"]
    assert trial["state"] == "Complete" and trial["values"] == [0.5]
