"""The frames of a sweep against counted, enumerated and hand-computed values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from harness.ledger import Look, Record
from harness.space import Choice, Log
from harness.study import Metrics, Store, Study
from reports.trials import (
    Sweep,
    best_of_k,
    learning_frame,
    mining_frame,
    setting_frame,
    stage_frame,
    sweep_groups,
    trial_frame,
)

SPACE = {"lr": Log(1e-3, 1.0), "depth": Choice((1, 2))}


def run(number: int, score: float, role: str = "search", seed: int = 0, **fields: object) -> Record:
    """A finished run; aligned cells are all right, so that `score` is reached by the others."""
    right = round(2000 * score - 1000)
    table = [[1000, right // 2], [right - right // 2, 0]]
    total = {"valid_unbiased": [[1000, 500], [500, 0]]}
    known = {
        "settings": {"lr": 0.1, "depth": 1},
        "status": "finished",
        "total": total,
        "looks": [Look(5, 10.0, {"valid_unbiased": table})],
        "seconds": 10.0,
    }
    return Record(role, number, seed, **(known | fields))


@pytest.fixture
def sweep(store: Store, make_study: Callable[..., Study]) -> Callable[..., Sweep]:
    """A study with the given records."""

    def sweep(*records: Record, metrics: Metrics | None = None, **fields: object) -> Sweep:
        study = make_study(space=SPACE, base={"lr": 0.1, "depth": 1}, **fields)
        store.create(study, 1, metrics)
        for record in records:
            store.ledger(study.id).append(record)
        return Sweep(study.method, study, store.ledger(study.id), store.metrics(study.id))

    return sweep


def enumerated(values: Sequence[float], k: int) -> tuple[Fraction, float, float]:
    """Mean and 5 % and 95 % quantiles of the maximum over all subsets of size k."""
    maxima = sorted(max(subset) for subset in itertools.combinations(values, k))
    mean = sum(map(Fraction, maxima)) / len(maxima)

    def quantile(percent: int) -> float:
        return next(v for v in maxima if 100 * sum(m <= v for m in maxima) >= percent * len(maxima))

    return mean, quantile(5), quantile(95)


@pytest.mark.parametrize(
    "values",
    [
        [0.5],
        [3.0, 1.0, 2.0],
        [0.7, 0.7, 0.7],
        [0.1, 0.9, 0.9, 0.2, 0.2, 0.5, 0.4],
        [float(v) for v in range(20, 0, -1)],  # 1 of 20 is 5 % exactly
    ],
)
def test_best_of_k_is_what_enumerating_all_draws_gives(values: list[float]) -> None:
    chances = best_of_k(values)
    assert list(chances["k"]) == list(range(1, len(values) + 1))
    for k, expected, low, high in chances.itertuples(index=False):
        if math.comb(len(values), k) <= 1200:
            mean, fifth, last = enumerated(values, k)
            assert expected == pytest.approx(float(mean), rel=1e-12)
            assert (low, high) == (fifth, last)


def test_best_of_k_of_many_trials_stays_exact() -> None:
    values = np.random.default_rng(0).random(1500)
    chances = best_of_k(values.tolist())
    assert chances["expected"].iloc[0] == pytest.approx(values.mean())
    assert chances["expected"].iloc[-1] == values.max()
    assert (chances["expected"].diff().dropna() > -1e-12).all()
    pairs = np.maximum.outer(values, values)[~np.eye(1500, dtype=bool)]
    assert chances["expected"].iloc[1] == pytest.approx(pairs.mean())


def test_trials_in_order_with_what_was_reached_and_spent(sweep: Callable[..., Sweep]) -> None:
    made = sweep(
        run(3, 0.8, metrics={"density": 0.25}),
        run(0, 0.6, metrics={"density": 0.5}),
        run(1, 0.9, status="failed", seconds=4.0),
        run(2, 0.7, status="stopped", seconds=5.0),
        run(4, 0.65),
        run(0, 0.6, role="confirm", seed=1000),
    )
    trials = trial_frame(made)
    assert list(trials["number"]) == [0, 1, 2, 3, 4] and list(trials["tried"]) == [1, 2, 3, 4, 5]
    assert list(trials["status"]) == ["finished", "failed", "stopped", "finished", "finished"]
    assert trials["score"].tolist() == pytest.approx([60, math.nan, math.nan, 80, 65], nan_ok=True)
    assert trials["best"].tolist() == pytest.approx([60, 60, 60, 80, 80])
    assert trials["elapsed"].tolist() == [10, 14, 19, 29, 39]
    assert trials["density"].iloc[[0, 3]].tolist() == [50, 25] and trials["density"].count() == 2


def test_a_trial_counts_once_all_its_seeds_are_in(sweep: Callable[..., Sweep]) -> None:
    made = sweep(run(0, 0.6, seed=0), run(0, 0.8, seed=1), run(1, 0.9, seed=0), search_seeds=(0, 1))
    trials = trial_frame(made)
    assert trials["score"].tolist() == pytest.approx([70, math.nan], nan_ok=True)
    assert list(trials["status"]) == ["finished", "unfinished"]
    assert list(trials["seconds"]) == [20, 10]


def test_settings_are_those_of_trials_with_a_score(sweep: Callable[..., Sweep]) -> None:
    made = sweep(
        run(1, 0.8, settings={"lr": 0.01, "depth": 2}), run(0, 0.6), run(2, 0.9, status="failed")
    )
    settings = setting_frame(made)
    expected = pd.DataFrame(
        {"lr": [0.1, 0.01], "depth": [1, 2]}, pd.Index([60.0, 80.0], name="score")
    )
    pd.testing.assert_frame_equal(settings, expected)


def test_mined_sets_of_search_and_confirm_runs(sweep: Callable[..., Sweep]) -> None:
    mined = {"mining/size": 4.0, "mining/precision": 0.75, "mining/recall": 0.5}
    empty = {"mining/size": 0.0, "mining/precision": math.nan, "mining/recall": 0.0}
    frame = mining_frame(
        sweep(
            run(0, 0.6, metrics=mined),
            run(1, 0.6, metrics={"density": 1.0}),
            run(0, 0.6, role="confirm", seed=1000, metrics=empty),
        )
    )
    rows = frame.drop(columns="name").to_numpy().tolist()
    assert rows[0] == ["search", 0, 0, 4, 75, 50]
    assert rows[1][:4] == ["confirm", 0, 1000, 0]
    assert math.isnan(rows[1][4]) and rows[1][5] == 0


def test_learning_curves_are_the_winners_confirm_runs(sweep: Callable[..., Sweep]) -> None:
    total = {"test": [[80, 10], [10, 0]]}
    looks = [
        Look(5, 3.0, {"test": [[80, 0], [0, 0]]}),
        Look(9, 6.0, {"test": [[60, 5], [10, 0]]}),
    ]
    made = sweep(
        run(0, 0.6),
        run(1, 0.8),
        run(1, 0.8, role="confirm", seed=1000, total=total, looks=looks),
        run(0, 0.6, role="confirm", seed=1000, total=total, looks=looks),
        run(1, 0.8, role="confirm", seed=1001, total=total, looks=looks[:1], status="failed"),
        metrics=Metrics("accuracy", "group_mean_accuracy"),
    )
    rows = learning_frame(made).drop(columns="name").to_numpy().tolist()
    assert rows[0] == pytest.approx([1000, 5, 3, 100 / 3, 0])
    assert rows[1] == pytest.approx([1000, 9, 6, 100 * (0.75 + 0.5 + 1) / 3, 75])
    assert len(rows) == 2


def test_stages_computed_reused_and_saved(sweep: Callable[..., Sweep]) -> None:
    def stages(*uses: tuple[str, float, bool]) -> dict[str, object]:
        return {
            "stages": [
                dict(zip(("name", "seconds", "reused"), u, strict=True), key="k") for u in uses
            ]
        }

    frame = stage_frame(
        sweep(
            run(0, 0.6, **stages(("pretrain", 8.0, False), ("mine", 2.0, False))),
            run(1, 0.6, **stages(("pretrain", 8.0, True), ("mine", 2.5, False))),
            run(0, 0.6, "confirm", 1000, **stages(("pretrain", 7.0, True), ("mine", 2.0, True))),
        )
    )
    rows = frame.drop(columns="name").to_numpy().tolist()
    assert rows == [["mine", 2, 1, 2.0], ["pretrain", 1, 2, 15.0]]
    assert stage_frame(sweep(run(0, 0.6), method="one-stage")).empty


def test_groups_share_all_that_scores_depend_on(store: Store, sweep: Callable[..., Sweep]) -> None:
    for fields in (
        {"method": "b"},
        {"method": "a"},
        {"method": "a", "code": "edited"},
        {"select": "worst-group"},
        {"ratio": 5.0},
        {"preset": "paper"},
        {"data_seed": 1},
        {"dataset": "other"},
    ):
        sweep(run(0, 0.6), **fields)
    sweep(run(0, 0.6, role="train"), method="not-searched")
    groups = sweep_groups(store, store.studies()[::-1])
    assert [len(group) for group in groups].count(1) == 5
    (shared,) = [group for group in groups if len(group) > 1]
    ids = sorted(each.study.id for each in shared if each.study.method == "a")
    assert [each.name for each in shared] == [f"a {ids[0][-8:]}", f"a {ids[1][-8:]}", "b"]


def test_looks_that_were_not_tested_are_left_out(sweep: Callable[..., Sweep]) -> None:
    tables = {"valid_unbiased": [[9, 9], [9, 9]], "test": [[8, 6], [6, 8]]}
    looks = [Look(1, 1.0, {"valid_unbiased": tables["valid_unbiased"]}), Look(2, 2.0, tables)]
    total = {split: [[10, 10], [10, 10]] for split in tables}
    made = sweep(run(0, 0.9), run(0, 0.9, role="confirm", seed=1000, looks=looks, total=total))
    assert learning_frame(made)[["step", "unbiased", "conflicting"]].values.tolist() == [
        [2, 70, 60]
    ]


def test_other_arithmetic_is_another_group(store: Store, sweep: Callable[..., Sweep]) -> None:
    for amp in (False, True):
        sweep(run(0, 0.9), amp=amp)
    groups = sweep_groups(store, store.studies())
    assert [[each.study.regime for each in group] for group in groups] == [
        ["quick"], ["quick, bfloat16"]
    ]  # fmt: skip
