"""MLflow as a view of the ledger: complete, without duplicates, never in the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import tracking
from harness.ledger import Record
from harness.space import Uniform
from harness.study import Store, Study, Work


@pytest.fixture
def study(store: Store, make_study: Callable[..., Study]) -> Study:
    study = make_study(base={"x": 0.5}, space={"x": Uniform(0.0, 1.0)})
    store.create(study, lookahead=1)
    return study


@pytest.fixture
def finish(
    store: Store, study: Study, make_record: Callable[..., Record]
) -> Callable[[str, int, int], Work]:
    """Appends a record to the ledger."""

    def finish(role: str, number: int, seed: int) -> Work:
        work = Work(study.id, role, number, seed, {"x": number / 10})
        store.ledger(study.id).append(make_record(work, 0.25, 0.5))
        return work

    return finish


def runs(store: Store) -> dict[str, list]:
    """Active runs by key."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking.local_uri(store))
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    found: dict[str, list] = {}
    for run in client.search_runs([experiment.experiment_id]):
        found.setdefault(run.data.tags.get("harness.key", "study"), []).append(run)
    return found


def test_each_record_is_one_run_however_often_it_is_synchronised(
    store: Store, study: Study, finish: Callable[[str, int, int], Work]
) -> None:
    finish("search", 0, 0)
    for _ in range(2):
        tracker = tracking.Tracker(store, tracking.local_uri(store), [study])
        work = finish("confirm", 0, 1000)
        tracker.finished(work, store.ledger(study.id).records[work.key])
        assert tracker.close({"board.md": "# board"}) == ""
    found = runs(store)
    assert {key: len(each) for key, each in found.items()} == {
        "study": 1, "search/0/0": 1, "confirm/0/1000": 1,
    }  # fmt: skip
    (search,), (confirm,), (root,) = (
        found[key] for key in ("search/0/0", "confirm/0/1000", "study")
    )
    assert search.data.params == {"x": "0.0"}
    assert search.data.metrics["valid_unbiased/accuracy"] == 0.5
    assert search.data.tags["mlflow.parentRunId"] == root.info.run_id
    assert confirm.data.tags["mlflow.parentRunId"] == search.info.run_id
    assert {run.info.status for each in found.values() for run in each} == {"FINISHED"}


def test_the_test_split_of_a_search_run_stays_sealed(
    store: Store, study: Study, make_record: Callable[..., Record]
) -> None:
    ledger = store.ledger(study.id)
    for role, seed in (("search", 0), ("confirm", 1000)):
        record = make_record(Work(study.id, role, 0, seed, {"x": 0.5}), 0.25, 0.5)
        record.total["test"] = record.total["valid_unbiased"]
        record.looks[-1].correct["test"] = record.looks[-1].correct["valid_unbiased"]
        ledger.append(record)
    tracker = tracking.Tracker(store, tracking.local_uri(store), [study])
    assert tracker.close() == ""
    found = runs(store)
    (search,), (confirm,) = (found[key] for key in ("search/0/0", "confirm/0/1000"))
    assert confirm.data.metrics["test/accuracy"] == 0.5
    assert not [name for name in search.data.metrics if "test" in name]
    artifacts = Path(search.info.artifact_uri.removeprefix("file://"))
    assert '"valid_unbiased"' in (groups := (artifacts / "groups.json").read_text())
    assert '"test"' not in groups
    assert set(json.loads(groups)["looks"][-1]) == {"step", "seconds", "correct"}


def test_trouble_is_reported_and_caught_up_with_later(
    store: Store,
    study: Study,
    finish: Callable[[str, int, int], Work],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow import MlflowClient

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("server went away")

    finish("search", 0, 0)
    tracker = tracking.Tracker(store, tracking.local_uri(store), [study])
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_batch", fail)  # after the run is made: it is left open
        trouble = tracker.close()
    assert "server went away" in trouble and "harness sync" in trouble
    assert runs(store)["search/0/0"][0].info.status == "RUNNING"

    finish("search", 1, 0)
    assert tracking.Tracker(store, tracking.local_uri(store), [study]).close() == ""
    found = runs(store)
    assert {key: [run.info.status for run in each] for key, each in found.items()} == {
        "study": ["FINISHED"], "search/0/0": ["FINISHED"], "search/1/0": ["FINISHED"],
    }  # fmt: skip


def test_a_server_that_is_away_is_one_line_and_does_not_end_the_sweep(
    store: Store, study: Study, finish: Callable[[str, int, int], Work], capfd
) -> None:
    work = finish("search", 0, 0)
    tracker = tracking.Tracker(store, "http://me:secret@127.0.0.1:9", [study])
    said = tracker.explained_trouble()
    assert said.startswith("tracking at http://***@127.0.0.1:9: it does not answer: Mlflow")
    assert said.endswith(
        "; `harness sync --tracking-uri http://***@127.0.0.1:9` writes what is missing"
    )
    tracker.finished(work, store.ledger(study.id).records[work.key])
    for text in (said, tracker.close(), "".join(capfd.readouterr())):
        assert "secret" not in text and "\n" not in text


def test_a_server_that_comes_back_is_caught_up_with(
    store: Store,
    study: Study,
    finish: Callable[[str, int, int], Work],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise ConnectionError("refused")

    work = finish("search", 0, 0)
    with monkeypatch.context() as away:
        away.setattr(tracking, "_connect", refuse)
        tracker = tracking.Tracker(store, tracking.local_uri(store), [study])
    assert "refused" in tracker.trouble
    tracker.finished(work, store.ledger(study.id).records[work.key])
    assert tracker.close() == ""
    assert {key: len(each) for key, each in runs(store).items()} == {"study": 1, "search/0/0": 1}


def test_a_damaged_database_is_trouble_and_the_way_out_is_said(store: Store, study: Study) -> None:
    store.root.joinpath("mlflow.db").write_bytes(b"no database at all" * 100)
    said = tracking.Tracker(store, tracking.local_uri(store), [study]).close()
    assert "file is not a database" in said and "`harness store repair`" in said
    assert "\n" not in said


@pytest.mark.parametrize("uri", ["ftp://x", "file:///tmp/x", "mlruns", "", "http:x"])
def test_what_is_no_tracking_server_is_refused(store: Store, study: Study, uri: str) -> None:
    if uri == "http:x":  # a scheme alone names no host, and MLflow says so
        assert "does not answer" in tracking.Tracker(store, uri, [study]).trouble
        return
    with pytest.raises(ValueError, match=r"^cannot track at [^\n]*use http"):
        tracking.Tracker(store, uri, [study])


def test_account_and_password_are_left_out() -> None:
    assert tracking.redacted("https://u:p@h:1/a?b=c@d") == "https://***@h:1/a?b=c@d"
    assert tracking.redacted("postgresql+psycopg://u@h/db") == "postgresql+psycopg://***@h/db"
    for uri in ("sqlite:////home/a@b/mlflow.db", "http://h:5000"):
        assert tracking.redacted(uri) == uri
