"""What each selection rule would report, from the same runs: the price of having no bias labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.groups import Evaluation
from harness.ledger import Ledger, Record
from harness.selection import LAST, RULES, Rule, best, oracle
from harness.space import slug
from harness.study import Store, Study
from reports.leaderboard import cell_name
from reports.results import names_of
from reports.section import Section, spread

CHAPTER = "Selection rules"

Scores = dict[str, NDArray[np.float64]]
"""Rule name -> (n,) test scores in percent of what it picks, one per seed; NaN if not tested.

Rules without a value, for lack of their split, are absent.
"""


class _Row(NamedTuple):
    study: Study
    facts: dict[str, str]
    scores: Scores


def rule_sections(store: Store, studies: Sequence[Study]) -> list[Section]:
    """Two tables per data set, ratio, preset and data seed: trials chosen, and checkpoints chosen.

    Only studies with a confirmed winner are opened: until then the test results of their search
    stay sealed.
    """
    opened: dict[tuple[str, float, str, int, str], list[tuple[Study, Ledger]]] = {}
    for study in studies:
        ledger = store.ledger(study.id)
        if study.confirmed(ledger):
            metric = store.metrics(study.id).primary
            conditions = (study.dataset, study.ratio, study.regime, study.data_seed, metric)
            opened.setdefault(conditions, []).append((study, ledger))
    sections = []
    for (dataset, ratio, regime, data_seed, metric), group in sorted(opened.items()):
        group.sort(key=lambda each: (each[0].method, each[0].id))
        title = f"{cell_name(dataset, ratio)}, preset {regime}"
        title += f", data seed {data_seed}" if data_seed else ""
        key = f"{slug(dataset)}-{ratio:g}-{slug(regime)}-{data_seed}"
        judge = oracle(metric)
        words = metric.replace("_", " ")
        sections += [
            Section(
                CHAPTER,
                f"{title}: choosing hyperparameters",
                _table([_by_trial(*each, judge) for each in group], "*"),
                (
                    f"Test {words} in percent of the trial that each rule picks at the last look, "
                    "over the n search seeds; a leaderboard shows the winner on fresh seeds. "
                    "* marks the rule that led the search to these trials.",
                    "Trials with a run that failed or was stopped do not count. Studies are shown "
                    "once their winner is confirmed; until then the tests of search runs stay "
                    "sealed.",
                    *_NOTES,
                ),
                key=f"rules-trials-{key}",
            ),
            Section(
                CHAPTER,
                f"{title}: choosing the checkpoint",
                _table([_by_look(*each, judge) for each in group]),
                (
                    f"Test {words} in percent at the look that each rule picks in each confirm run "
                    "of the study's winner, the earliest of equals: mean ± standard deviation "
                    "(ddof 1) over the n runs.",
                    *_NOTES,
                ),
                key=f"rules-checkpoints-{key}",
            ),
        ]
    return sections


_NOTES = (
    "Price of no labels: what unbiased picks minus what average picks, in points over the same "
    "seeds; where there is no unbiased validation split, ac takes its place.",
    "The oracle picks by the test score itself: no one can choose so, and no rule can do better.",
    "–: the rule has no value, or runs of an older version were not tested there.",
)


def _by_trial(study: Study, ledger: Ledger, judge: Rule) -> _Row:
    """One choice per study, among the trials that finished on every search seed."""
    runs: dict[int, list[Record]] = {}
    for record in ledger.of("search"):
        if record.status == "finished":
            runs.setdefault(record.number, []).append(record)
    seeds = len(study.search_seeds)
    trials = [records for records in runs.values() if len(records) == seeds]

    # Each table once, not once per rule: there are as many as runs and splits.
    tables = [
        [
            {split: record.evaluation(split, study.aligned) for split in record.looks[-1].correct}
            for record in trial
        ]
        for trial in trials
    ]

    def value(rule: Rule, run: dict[str, Evaluation]) -> float:
        return run[rule.split].metric(rule.metric) if rule.split in run else math.nan

    def values(rule: Rule) -> list[list[float]]:
        return [[value(rule, run) for run in trial] for trial in tables]

    tested = 100 * np.array(values(judge))  # (trials, seeds)
    scores = {}
    for rule in RULES.values():
        chosen = best([fmean(trial) for trial in values(rule)])
        if chosen is not None:
            scores[rule.name] = tested[chosen]
    # The first of the highest means, as above; NaN if a run was not tested.
    scores[judge.name] = tested[tested.mean(axis=1).argmax()]
    return _Row(study, {"trials": str(len(trials)), "n": str(seeds)}, scores)


def _by_look(study: Study, ledger: Ledger, judge: Rule) -> _Row:
    """One choice per confirm run of the winner, among its looks."""
    runs = study.confirmed(ledger)

    def values(rule: Rule, run: Record) -> list[float]:
        return [rule.value(run, study.aligned, look) for look in range(len(run.looks))]

    tested = [100 * np.array(values(judge, run)) for run in runs]  # (looks,) per run
    scores = {LAST: np.array([each[-1] for each in tested])}
    for rule in RULES.values():
        chosen = [best(values(rule, run)) for run in runs]
        if None not in chosen:
            scores[rule.name] = np.array([each[c] for each, c in zip(tested, chosen, strict=True)])
    scores[judge.name] = np.array([each.max() for each in tested])  # NaN if a look was not tested
    counts = sorted({len(run.looks) for run in runs})
    looks = "–".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    return _Row(study, {"looks": looks, "n": str(len(runs))}, scores)


def _table(rows: list[_Row], mark: str = "") -> pd.DataFrame:
    """A row per study: rules without labels first, then those with, the oracle, the price."""
    rules = sorted({rule: None for row in rows for rule in row.scores}, key=_kind)
    records = []
    for name, row in zip(names_of([row.study for row in rows]), rows, strict=True):
        record = {"method": name} | row.facts
        for rule in rules:
            own = f" {mark}" if mark and rule == row.study.select else ""
            record[f"{rule} ({_KINDS[_kind(rule)]})"] = _text(row.scores.get(rule)) + own
        record["price of no labels"] = _text(_price(row.scores))
        records.append(record)
    return pd.DataFrame(records)


_KINDS = ("no labels", "labels", "test")


def _kind(rule: str) -> int:
    """Index into _KINDS, the order of the columns."""
    if rule == LAST:
        return 0
    return int(RULES[rule].needs_bias_labels) if rule in RULES else 2


def _price(scores: Scores) -> NDArray[np.float64] | None:
    """Per seed, what labels gain: two fixed rules, so that none is chosen by its test result."""
    informed = scores.get("unbiased", scores.get("ac"))
    uninformed = scores.get("average")
    return None if informed is None or uninformed is None else informed - uninformed


def _text(scores: NDArray[np.float64] | None) -> str:
    if scores is None:
        return "–"
    std = float(scores.std(ddof=1)) if len(scores) > 1 else math.nan
    return spread(float(scores.mean()), std)
