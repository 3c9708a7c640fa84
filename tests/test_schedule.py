"""The schedule: search before confirm, shared stages computed by one, resume skips what is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.ledger import Ledger, Record
from harness.plan import PlannedStage
from harness.proposals import Proposals
from harness.schedule import Schedule, SingleRun, Sweep
from harness.space import Uniform
from harness.stages import StageKey, StageStore
from harness.study import CONFIRM_SEED, Study, Work


class FakeStages(StageStore):
    """Holds the stages that it was told to."""

    def __init__(self) -> None:
        self.held: set[str] = set()

    def holds(self, key: StageKey) -> bool:
        return key.key in self.held


class Setting:
    """Studies with one searched number `x`, whose trials call the stages `plan_of` says."""

    def __init__(self, folder: Path, make_study: Callable[..., Study]) -> None:
        self.folder, self.make_study = folder, make_study
        self.stages = FakeStages()
        self.shared: dict[str, list[str]] = {}  # method -> stages that all its work shares
        self.plans = 0

    def study(self, method: str, **fields: object) -> Study:
        return self.make_study(method, base={"x": 0.5}, space={"x": Uniform(0.0, 1.0)}, **fields)

    def sweep(
        self, study: Study, trials: int = 3, lookahead: int = 3, confirm: tuple[int, ...] = (1000,)
    ) -> Sweep:
        ledger = Ledger(self.folder / study.id)
        return Sweep(study, ledger, Proposals(study, ledger, trials, lookahead), confirm)

    def schedule(self, *agendas: Sweep | SingleRun) -> Schedule:
        return Schedule(agendas, self.plan_of, self.stages)

    def plan_of(self, work: Work) -> list[PlannedStage]:
        self.plans += 1
        shared = [names for method, names in self.shared.items() if f"-{method}-" in work.study]
        return [self.planned(name) for name in sum(shared, [])]

    def planned(self, name: str) -> PlannedStage:
        key = StageKey(name, {})
        return PlannedStage(name, key, self.stages.holds(key))

    def compute(self, name: str) -> None:
        self.stages.held.add(StageKey(name, {}).key)


@pytest.fixture
def setting(tmp_path: Path, make_study: Callable[..., Study]) -> Setting:
    return Setting(tmp_path, make_study)


@pytest.fixture
def outcome(make_record: Callable[..., Record]) -> Callable[[Work], Record]:
    """The best trial is the one with the largest x."""
    return lambda work: make_record(work, float(work.settings["x"]))


def take(schedule: Schedule) -> Work:
    work = schedule.next()
    assert isinstance(work, Work), work
    return work


def run_all(schedule: Schedule, outcome: Callable[[Work], Record]) -> list[Work]:
    done = []
    while isinstance(work := schedule.next(), Work):
        schedule.finished(work.study, outcome(work))
        done.append(work)
    assert work is None
    return done


def test_confirm_comes_after_search_and_has_the_winners_settings(
    setting: Setting, outcome: Callable[[Work], Record]
) -> None:
    study = setting.study("m", search_seeds=(0, 1))
    sweep = setting.sweep(study, trials=4, confirm=(1000, 1001, 1002))
    done = run_all(setting.schedule(sweep), outcome)
    assert [work.role for work in done] == ["search"] * 8 + ["confirm"] * 3
    best = max(done[:8], key=lambda work: work.settings["x"])
    for work, seed in zip(done[8:], (1000, 1001, 1002), strict=True):
        assert work == Work(study.id, "confirm", best.number, seed, best.settings)
    assert len({work.settings["x"] for work in done[:8]}) == 4
    searched = {work.seed for work in done[:8]}
    assert searched == {0, 1}
    assert max(searched) < CONFIRM_SEED


def test_confirm_waits_for_the_last_search_result(
    setting: Setting, outcome: Callable[[Work], Record]
) -> None:
    schedule = setting.schedule(setting.sweep(setting.study("m")))
    works = [take(schedule) for _ in range(3)]
    for work in (works[2], works[0]):
        assert schedule.next() == "wait"
        schedule.finished(work.study, outcome(work))
    assert schedule.next() == "wait"
    schedule.finished(works[1].study, outcome(works[1]))
    confirm = take(schedule)
    assert (confirm.role, confirm.seed) == ("confirm", 1000)
    assert schedule.next() == "wait"  # its worker may die
    schedule.finished(confirm.study, outcome(confirm))
    assert schedule.next() is None


def test_nothing_is_confirmed_when_every_trial_failed(
    setting: Setting, make_record: Callable[..., Record]
) -> None:
    schedule = setting.schedule(setting.sweep(setting.study("m")))
    done = run_all(schedule, lambda work: make_record(work, status="failed"))
    assert [work.role for work in done] == ["search"] * 3


def test_work_whose_shared_stage_is_being_computed_is_held_back(
    setting: Setting, outcome: Callable[[Work], Record]
) -> None:
    setting.shared = {"first": ["pretrain"], "second": []}
    first, second = (setting.study(name) for name in ("first", "second"))
    schedule = setting.schedule(setting.sweep(first), setting.sweep(second))
    given = [take(schedule) for _ in range(4)]
    # One trial of the first study computes its stage; the second study's need none.
    assert [(w.study, w.number) for w in given] == [
        (first.id, 0), (second.id, 0), (second.id, 1), (second.id, 2),
    ]  # fmt: skip
    assert schedule.next() == "wait"
    setting.compute("pretrain")
    assert [(w.study, w.number) for w in (take(schedule), take(schedule))] == [
        (first.id, 1), (first.id, 2),
    ]  # fmt: skip
    assert schedule.next() == "wait"
    for work in list(schedule.running.values()):
        schedule.finished(work.study, outcome(work))
    assert not schedule.running
    assert {w.role for w in run_all(schedule, outcome)} == {"confirm"}


def test_work_is_released_when_the_one_that_was_to_compute_its_stage_failed(
    setting: Setting, make_record: Callable[..., Record]
) -> None:
    setting.shared = {"m": ["pretrain"]}
    schedule = setting.schedule(setting.sweep(setting.study("m")))
    work = take(schedule)
    assert schedule.next() == "wait"
    schedule.finished(work.study, make_record(work, status="failed"))
    assert take(schedule).number == 1
    assert schedule.next() == "wait"


def test_a_plan_is_made_again_when_a_stage_of_it_was_stored(setting: Setting) -> None:
    """Only then are the keys of later stages known; a stale plan would hold work back for long."""
    setting.shared = {"m": ["pretrain", "mask of an unknown pretrain"]}
    schedule = setting.schedule(setting.sweep(setting.study("m"), trials=2))
    take(schedule)
    assert schedule.next() == "wait"
    plans = setting.plans
    assert schedule.next() == "wait"
    assert setting.plans == plans  # nothing was stored, so nothing is planned again

    setting.compute("pretrain")
    setting.shared = {"m": ["pretrain", "mask"]}
    assert schedule.next() == "wait"
    setting.compute("mask")
    assert take(schedule).number == 1


def test_resume_skips_what_is_recorded(setting: Setting, outcome: Callable[[Work], Record]) -> None:
    whole = run_all(setting.schedule(setting.sweep(setting.study("whole"), 4)), outcome)
    for done in range(len(whole) + 1):
        setting.folder = setting.folder / "deeper"
        study = setting.study("whole")
        ledger = Ledger(setting.folder / study.id)
        for work in whole[:done]:
            ledger.append(outcome(work))
        resumed = setting.schedule(setting.sweep(study, 4))
        assert resumed.remaining() == len(whole) - done
        assert resumed.has_work() is (done < len(whole))
        assert run_all(resumed, outcome) == whole[done:]
        assert resumed.remaining() == 0


def test_more_confirm_seeds_are_run_beside_those_recorded(
    setting: Setting, outcome: Callable[[Work], Record]
) -> None:
    study = setting.study("m")
    run_all(setting.schedule(setting.sweep(study, confirm=(1000, 1001))), outcome)
    more = setting.sweep(study, confirm=(1000, 1001, 1002, 1003))
    done = run_all(setting.schedule(more), outcome)
    assert [(work.role, work.seed) for work in done] == [("confirm", 1002), ("confirm", 1003)]
    assert len(study.confirmed(more.ledger)) == 4


def test_asking_whether_there_is_work_gives_none_of_it_away(
    setting: Setting, outcome: Callable[[Work], Record]
) -> None:
    expected = run_all(setting.schedule(setting.sweep(setting.study("m"))), outcome)
    setting.folder = setting.folder / "again"
    schedule = setting.schedule(setting.sweep(setting.study("m")))
    assert schedule.has_work() and schedule.has_work()
    assert not schedule.running
    assert run_all(schedule, outcome) == expected
    assert not schedule.has_work()


def test_a_single_run_is_given_out_once_and_skipped_when_recorded(
    setting: Setting, outcome: Callable[[Work], Record]
) -> None:
    study = setting.study("m")
    ledger = Ledger(setting.folder / "single")
    schedule = setting.schedule(SingleRun(study, ledger, seed=3))
    assert schedule.remaining() == 1
    assert run_all(schedule, outcome) == [Work(study.id, "train", 0, 3, study.base)]
    again = setting.schedule(SingleRun(study, Ledger(setting.folder / "single"), seed=3))
    assert again.remaining() == 0
    assert run_all(again, outcome) == []


def test_work_of_a_dead_worker_is_given_out_again_and_given_up_after_three_deaths(
    setting: Setting, outcome: Callable[[Work], Record]
) -> None:
    sweep = setting.sweep(setting.study("m"), trials=2)
    schedule = setting.schedule(sweep)
    unlucky, other = take(schedule), take(schedule)
    schedule.finished(other.study, outcome(other))
    for _ in range(2):
        assert schedule.lost(unlucky) is None
        assert unlucky.key not in sweep.ledger.records
        assert take(schedule) == unlucky
    record = schedule.lost(unlucky)
    assert record is not None and record.status == "failed"
    assert "died 3 times" in record.error
    assert sweep.ledger.records[unlucky.key] == record
    assert take(schedule).role == "confirm"


def test_a_halted_schedule_gives_out_nothing_and_takes_in_what_runs(
    setting: Setting, outcome: Callable[[Work], Record]
) -> None:
    sweep = setting.sweep(setting.study("one"))
    schedule = setting.schedule(sweep)
    first, second = take(schedule), take(schedule)
    schedule.halt("no space")
    schedule.halt("interrupted")
    assert schedule.next() is None and schedule.halted == "no space"
    schedule.finished(first.study, outcome(first))
    assert schedule.lost(second) is None
    assert schedule.next() is None
    assert schedule.remaining() == 3
    assert list(sweep.ledger.records) == [first.key]
    assert take(setting.schedule(setting.sweep(sweep.study))) == second


def test_work_is_given_up_with_its_stack(setting: Setting) -> None:
    sweep = setting.sweep(setting.study("one"))
    schedule = setting.schedule(sweep)
    work = take(schedule)
    record = schedule.given_up(work, "took too long", "File x, line 1")
    assert (record.status, record.error, record.traceback) == (
        "failed", "took too long", "File x, line 1",
    )  # fmt: skip
    assert sweep.ledger.records == {work.key: record}
    assert not schedule.running
    assert take(schedule).number == 1


def test_the_last_work_is_given_out_again_when_its_worker_dies(
    setting: Setting, outcome: Callable[[Work], Record]
) -> None:
    schedule = setting.schedule(setting.sweep(setting.study("one"), trials=1))
    search = take(schedule)
    schedule.finished(search.study, outcome(search))
    last = take(schedule)
    assert schedule.next() == "wait"
    assert schedule.lost(last) is None
    assert take(schedule) == last
    schedule.finished(last.study, outcome(last))
    assert schedule.next() is None


def test_work_is_awaited_until_its_record_is_in(
    setting: Setting, outcome: Callable[[Work], Record]
) -> None:
    schedule = setting.schedule(setting.sweep(setting.study("one")))
    work = take(schedule)
    assert schedule.awaits(work)
    schedule.finished(work.study, outcome(work))
    assert not schedule.awaits(work)
