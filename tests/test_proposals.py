"""Proposals: a sequence that depends on results alone."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from harness.ledger import Ledger, Record
from harness.proposals import SEARCHERS, Proposals
from harness.space import Choice, Integer, Log, Range, Settings, Uniform
from harness.study import Study, Work

SPACE: dict[str, Range] = {
    "a": Uniform(0.0, 1.0),
    "b": Log(1e-4, 1.0),
    "c": Integer(1, 4),
    "d": Choice(("x", "y")),
}
BASE: Settings = {"a": 0.25, "b": 0.01, "c": 2, "d": "x", "fixed": 7}
TRIALS = 14  # more than TPE's and CMA-ES's first generations


def value(settings: Settings) -> float:
    """Some smooth function with a maximum inside the space."""
    a, c = float(settings["a"]), float(settings["c"])
    b = max(float(settings["b"]), 1e-6)
    bonus = 0.1 if settings["d"] == "y" else 0.0
    return 0.8 - 0.3 * (a - 0.6) ** 2 - 0.02 * (math.log10(b) + 2) ** 2 - 0.02 * abs(c - 3) + bonus


@pytest.fixture
def study(make_study: Callable[..., Study]) -> Callable[..., Study]:
    def make(searcher: str = "tpe", **fields: object) -> Study:
        return make_study(base=BASE, space=SPACE, searcher=searcher, **fields)

    return make


@pytest.fixture
def outcome(make_record: Callable[..., Record]) -> Callable[[Work], Record]:
    """Every fifth trial fails and every seventh is stopped early."""

    def of(work: Work) -> Record:
        reached = value(work.settings) + 0.001 * work.seed
        if work.number % 5 == 4:
            return make_record(work, status="failed")
        if work.number % 7 == 6:
            return make_record(work, reached / 3, status="stopped")
        return make_record(work, reached / 2, reached)

    return of


def search(
    proposals: Proposals, outcome: Callable[[Work], Record], workers: int, order: random.Random
) -> list[Work]:
    """Runs a search whose work finishes in random order; returns all work by trial and seed."""
    running: list[Work] = []
    done: list[Work] = []
    while True:
        work = proposals.next() if len(running) < workers else "wait"
        if isinstance(work, Work):
            running.append(work)
        elif running:
            finished = running.pop(order.randrange(len(running)))
            proposals.ledger.append(outcome(finished))
            done.append(finished)
        else:
            assert work is None, "waits with nothing running"
            assert proposals.finished
            return sorted(done, key=lambda w: (w.number, w.seed))


def settings_of(works: list[Work]) -> list[Settings]:
    return [work.settings for work in works]


def test_first_trial_is_the_base_setting(
    study: Callable[..., Study], outcome: Callable[[Work], Record], tmp_path: Path
) -> None:
    for searcher in SEARCHERS:
        proposals = Proposals(study(searcher), Ledger(tmp_path / searcher), 3, 1)
        works = search(proposals, outcome, 1, random.Random(0))
        assert works[0].settings == BASE
        assert [work.key for work in works] == ["search/0/0", "search/1/0", "search/2/0"]
        for work in works[1:]:
            assert work.settings.keys() == BASE.keys()
            assert work.settings["fixed"] == 7
            assert work.settings != BASE


@pytest.mark.parametrize("lookahead", [1, 2, 4])
@pytest.mark.parametrize("searcher", SEARCHERS)
def test_sequence_does_not_depend_on_the_order_in_which_work_finishes(
    study: Callable[..., Study],
    outcome: Callable[[Work], Record],
    tmp_path: Path,
    searcher: str,
    lookahead: int,
) -> None:
    mine = study(searcher, search_seeds=(0, 1))
    sequences = []
    for attempt, workers in enumerate((1, 2, 5, 8)):
        proposals = Proposals(mine, Ledger(tmp_path / f"{attempt}"), TRIALS, lookahead)
        sequences.append(search(proposals, outcome, workers, random.Random(attempt)))
    assert len(sequences[0]) == 2 * TRIALS
    assert all(sequence == sequences[0] for sequence in sequences)


def test_searchers_propose_differently(
    study: Callable[..., Study], outcome: Callable[[Work], Record], tmp_path: Path
) -> None:
    """Otherwise the laws here would hold for a constant."""
    found = {}
    for searcher in SEARCHERS:
        proposals = Proposals(study(searcher), Ledger(tmp_path / searcher), TRIALS, 1)
        found[searcher] = settings_of(search(proposals, outcome, 1, random.Random(0)))
        assert len({tuple(each.items()) for each in found[searcher]}) == TRIALS
    for one, other in itertools.combinations(found.values(), 2):
        assert one != other


def test_results_and_data_seed_steer_the_search(
    study: Callable[..., Study], outcome: Callable[[Work], Record],
    make_record: Callable[..., Record], tmp_path: Path,
) -> None:  # fmt: skip
    def run(name: str, of: Callable[[Work], Record], mine: Study) -> list[Settings]:
        return settings_of(
            search(Proposals(mine, Ledger(tmp_path / name), TRIALS, 1), of, 1, random.Random(0))
        )

    plain = run("plain", outcome, study())
    assert run("again", outcome, study()) == plain
    reverse = run("reverse", lambda w: make_record(w, 1 - value(w.settings)), study())
    assert reverse[:8] == plain[:8]  # random at first
    assert reverse != plain
    assert run("seed", outcome, study(data_seed=1)) != plain


@pytest.mark.parametrize(("searcher", "lookahead"), [(s, 1) for s in SEARCHERS] + [("tpe", 3)])
def test_resume_from_any_point_proposes_the_same(
    study: Callable[..., Study],
    outcome: Callable[[Work], Record],
    tmp_path: Path,
    searcher: str,
    lookahead: int,
) -> None:
    mine = study(searcher)
    whole = Ledger(tmp_path / "whole")
    expected = search(Proposals(mine, whole, TRIALS, lookahead), outcome, 3, random.Random(1))
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    for kept in range(TRIALS + 1):
        part = tmp_path / "part"
        part.write_bytes(b"".join(lines[:kept]) + b'{"role": "sea')
        resumed = Proposals(mine, Ledger(part), TRIALS, lookahead)
        again = search(resumed, outcome, 3, random.Random(2))
        assert len(again) == TRIALS - kept
        assert {w.key: w for w in again}.items() <= {w.key: w for w in expected}.items()
        assert resumed.ledger.records == whole.records


def test_more_trials_continue_a_search(
    study: Callable[..., Study], outcome: Callable[[Work], Record], tmp_path: Path
) -> None:
    for searcher in ("tpe", "cmaes", "random", "grid"):
        mine = study(searcher)
        short = Ledger(tmp_path / f"{searcher} short")
        search(Proposals(mine, short, 5, 2), outcome, 2, random.Random(0))
        rest = search(Proposals(mine, short, TRIALS, 2), outcome, 2, random.Random(0))
        assert [work.number for work in rest] == list(range(5, TRIALS))
        long = Ledger(tmp_path / f"{searcher} long")
        search(Proposals(mine, long, TRIALS, 2), outcome, 2, random.Random(0))
        assert short.records == long.records


def test_fewer_trials_than_recorded_propose_nothing(
    study: Callable[..., Study], outcome: Callable[[Work], Record], tmp_path: Path
) -> None:
    mine, ledger = study(), Ledger(tmp_path / "l")
    search(Proposals(mine, ledger, 6, 1), outcome, 1, random.Random(0))
    proposals = Proposals(mine, ledger, 3, 1)
    assert proposals.next() is None
    assert proposals.finished


def test_a_search_that_is_recorded_whole_asks_no_sampler(
    study: Callable[..., Study],
    outcome: Callable[[Work], Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine, ledger = study(search_seeds=(0, 1)), Ledger(tmp_path / "l")
    search(Proposals(mine, ledger, 6, 2), outcome, 2, random.Random(0))
    last = ledger.records.pop("search/5/1")
    begun = Proposals(mine, ledger, 6, 2)
    assert not begun.finished
    (left,) = search(begun, lambda _: last, 1, random.Random(0))
    assert left.key == last.key

    def ask(*_: object) -> None:
        raise AssertionError("a sampler was asked")

    monkeypatch.setattr(optuna.Study, "ask", ask)
    for trials in (4, 6):
        proposals = Proposals(mine, ledger, trials, 2)
        assert proposals.next() is None
        assert proposals.finished
    with pytest.raises(AssertionError, match="was asked"):
        Proposals(mine, ledger, 7, 2).next()


class Told:
    """Watches what Optuna is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trials: list[tuple[int, float | None, TrialState]] = []
        real = optuna.Study.tell

        def tell(study: optuna.Study, trial: optuna.Trial, *args: object, **kwargs: object):  # noqa: ANN202
            frozen = real(study, trial, *args, **kwargs)
            self.trials.append((frozen.number, frozen.value, frozen.state))
            return frozen

        monkeypatch.setattr(optuna.Study, "tell", tell)


def test_optuna_is_told_failures_stops_and_means(
    study: Callable[..., Study],
    make_record: Callable[..., Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = Told(monkeypatch)
    script = {
        (0, 0): lambda w: make_record(w, 0.1, 0.5),
        (0, 1): lambda w: make_record(w, 0.2, 0.75),
        (1, 0): lambda w: make_record(w, 0.9),
        (1, 1): lambda w: make_record(w, status="failed"),
        (2, 0): lambda w: make_record(w, 0.25, 0.25, status="stopped"),
        (2, 1): lambda w: make_record(w, 0.75, 0.8),
        (3, 0): lambda w: make_record(w, math.nan),
        (3, 1): lambda w: make_record(w, 0.5),
    }

    def outcome(work: Work) -> Record:
        if (work.number, work.seed) == (3, 0):  # nothing to be measured on
            record = make_record(work, 0.0)
            record.total["valid_unbiased"][0][0] = 0
            return record
        return script[work.number, work.seed](work)

    proposals = Proposals(study(search_seeds=(0, 1)), Ledger(tmp_path / "l"), 4, 1)
    search(proposals, outcome, 2, random.Random(0))
    assert told.trials == [
        (0, 0.625, TrialState.COMPLETE),
        (1, None, TrialState.FAIL),
        (2, pytest.approx(0.525), TrialState.PRUNED),
        (3, None, TrialState.FAIL),
    ]


def test_intermediate_values_are_means_over_the_looks_all_seeds_have(
    study: Callable[..., Study],
    make_record: Callable[..., Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[tuple[float, int]] = []
    monkeypatch.setattr(optuna.Trial, "report", lambda _, v, step: reported.append((v, step)))
    proposals = Proposals(study(search_seeds=(0, 1)), Ledger(tmp_path / "l"), 1, 1)
    curves = {0: (0.25, 0.5, 0.75), 1: (0.75, 0.5)}
    search(proposals, lambda w: make_record(w, *curves[w.seed]), 1, random.Random(0))
    assert reported == [(0.5, 0), (0.5, 1)]


def test_a_proposal_waits_for_the_results_it_needs(
    study: Callable[..., Study], outcome: Callable[[Work], Record], tmp_path: Path
) -> None:
    proposals = Proposals(study(), Ledger(tmp_path / "l"), 5, lookahead=3)
    given = [proposals.next() for _ in range(3)]
    assert [w.number for w in given if isinstance(w, Work)] == [0, 1, 2]
    assert proposals.next() == "wait"
    for late in (given[2], given[1]):  # trial 3 is proposed from trial 0 alone
        assert isinstance(late, Work)
        proposals.ledger.append(outcome(late))
        assert proposals.next() == "wait"
    assert isinstance(given[0], Work)
    proposals.ledger.append(outcome(given[0]))
    fourth = proposals.next()
    assert isinstance(fourth, Work) and fourth.number == 3
    assert not proposals.finished


def test_grid_covers_all_combinations_once(
    study: Callable[..., Study], outcome: Callable[[Work], Record], tmp_path: Path
) -> None:
    middle = math.sqrt(1e-4)
    axes = ((0.0, 0.5, 1.0), (1e-4, middle, 1.0), (1, 2, 4), ("x", "y"))
    expected = sorted(itertools.product(*axes))
    base_on_grid = BASE | {"a": 0.5, "b": middle}
    for base, extra in ((BASE, 1), (base_on_grid, 0)):
        mine = study("grid")
        mine = type(mine)(**(vars(mine) | {"base": base}))
        proposals = Proposals(mine, Ledger(tmp_path / f"{extra}"), 1000, 2)
        works = search(proposals, outcome, 2, random.Random(0))
        assert works[0].settings == base
        points = [tuple(work.settings[name] for name in SPACE) for work in works[extra:]]
        assert sorted(points) == expected


def test_part_of_a_grid_is_spread_out(
    study: Callable[..., Study], outcome: Callable[[Work], Record], tmp_path: Path
) -> None:
    proposals = Proposals(study("grid"), Ledger(tmp_path / "l"), 10, 1)
    works = search(proposals, outcome, 1, random.Random(0))
    assert len(works) == 10
    assert len({work.settings["a"] for work in works[1:]}) == 3


@pytest.mark.parametrize("searcher", SEARCHERS)
@pytest.mark.parametrize(
    "outside", [{"b": 0.0}, {"a": 1.5}, {"c": 9}, {"d": "z"}], ids=lambda o: next(iter(o))
)
def test_base_setting_may_lie_outside_of_the_space(
    study: Callable[..., Study],
    outcome: Callable[[Work], Record],
    tmp_path: Path,
    searcher: str,
    outside: Settings,
) -> None:
    """Such as no weight decay, when weight decay is searched on a log scale."""
    mine = study(searcher)
    mine = type(mine)(**(vars(mine) | {"base": BASE | outside}))
    works = search(Proposals(mine, Ledger(tmp_path / "l"), TRIALS, 2), outcome, 2, random.Random(0))
    assert len(works) == TRIALS
    assert works[0].settings == BASE | outside
    for work in works[1:]:
        assert 0 <= work.settings["a"] <= 1 and 1e-4 <= work.settings["b"] <= 1
        assert work.settings["c"] in (1, 2, 3, 4) and work.settings["d"] in ("x", "y")
    resumed = Proposals(mine, Ledger(tmp_path / "l"), TRIALS + 1, 2)
    assert [w.number for w in search(resumed, outcome, 2, random.Random(0))] == [TRIALS]


def test_nothing_new_is_proposed_after_the_deadline(
    study: Callable[..., Study], outcome: Callable[[Work], Record], tmp_path: Path
) -> None:
    mine, ledger = study(search_seeds=(0, 1)), Ledger(tmp_path / "l")
    proposals = Proposals(mine, ledger, TRIALS, 1, deadline=time.monotonic() + 1000)
    begun = proposals.next()
    assert isinstance(begun, Work)
    proposals.deadline = time.monotonic() - 1
    other_seed = proposals.next()  # the trial is completed
    assert isinstance(other_seed, Work) and other_seed.key == "search/0/1"
    assert proposals.next() is None
    assert not proposals.finished
    for work in (begun, other_seed):
        ledger.append(outcome(work))
    assert proposals.finished
    late = Proposals(mine, Ledger(tmp_path / "none"), TRIALS, 1, deadline=time.monotonic() - 1)
    assert late.next() is None
    assert late.finished


def test_a_ledger_of_other_settings_is_refused(
    study: Callable[..., Study], outcome: Callable[[Work], Record], tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path / "l")
    search(Proposals(study("random"), ledger, 4, 1), outcome, 1, random.Random(0))
    proposals = Proposals(study("tpe", data_seed=5), ledger, 6, 1)
    with pytest.raises(ValueError, match="trial 1 is recorded with other settings than optuna"):
        proposals.next()


def test_without_a_space_there_is_one_trial(
    make_study: Callable[..., Study], outcome: Callable[[Work], Record], tmp_path: Path
) -> None:
    for searcher in SEARCHERS:
        mine = make_study(base=BASE, searcher=searcher, search_seeds=(0, 1))
        proposals = Proposals(mine, Ledger(tmp_path / searcher), TRIALS, 2)
        works = search(proposals, outcome, 2, random.Random(0))
        assert [work.key for work in works] == ["search/0/0", "search/0/1"]
        assert settings_of(works) == [BASE, BASE]


def test_unknown_searcher(study: Callable[..., Study], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown searcher 'tpee'. Did you mean 'tpe'?"):
        Proposals(study("tpee"), Ledger(tmp_path / "l"), 1, 1)
