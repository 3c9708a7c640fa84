"""How the sweeps went: trials, hyperparameters, density, mining, learning and compute."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import pandas as pd

from harness.selection import RULES
from harness.space import Scalar
from harness.study import Store, Study
from reports import plots
from reports.leaderboard import cell_name
from reports.plots import Key
from reports.section import Section, spread
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

CHAPTER = "How the sweeps went"


class _Figure(NamedTuple):
    """What draws a figure, and what must be said below it."""

    draw: Callable[[], plots.Chart]
    caption: str


_Part = tuple[Section, _Figure | None]


def sweep_sections(store: Store, studies: Sequence[Study], figures: bool = True) -> list[Section]:
    """Tables and figures per data set, ratio, preset, selection rule and data seed.

    What there is nothing to show of is left out: figures of fewer than two trials, the mining of
    methods that do not mine, and so on.

    Args:
        store: Where the ledgers are.
        studies: Those to report on.
        figures: Whether to draw, which takes longer than all the rest.
    """
    groups = sweep_groups(store, studies)
    key = Key(tuple(sorted({sweep.name for group in groups for sweep in group})))
    sections = []
    for number, group in enumerate(groups, 1):
        trials = _joined(trial_frame(sweep) for sweep in group)
        parts = (
            _trials(group, trials, key),
            _hyperparameters(group, key),
            _density(group, trials, key),
            _mining(group, key),
            _learning(group, key),
            _compute(group, trials, key),
        )
        for section, figure in filter(None, parts):
            if figure and figures:
                section = _with_figure(section, figure)
            if section.figure or len(section.table):
                sections.append(_placed(section, group[0].study, number))
    return sections


def _with_figure(section: Section, figure: _Figure) -> Section:
    notes = (*section.notes, f"Figure: {figure.caption}")
    return section._replace(figure=plots.svg(figure.draw()), notes=notes)


def _joined(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()


def _placed(section: Section, study: Study, number: int) -> Section:
    """The section with its conditions in front."""
    cell = f"{cell_name(study.dataset, study.ratio)}, preset {study.regime}, rule {study.select}"
    seed = f", data seed {study.data_seed}" if study.data_seed else ""
    return section._replace(
        title=f"{cell}{seed}: {section.title}",
        key=f"sweep-{number}-{section.key}",
        detail=True,
    )


def _trials(group: list[Sweep], trials: pd.DataFrame, key: Key) -> _Part:
    note = (
        f"Scores in percent: {RULES[group[0].study.select].doc}, at a trial's last step, mean over "
        "its search seeds. Trial 0 has the preset's settings. 10–90 %: quantiles over the finished "
        "trials. Compute credits reused stages, as if every trial computed its own."
    )
    table = pd.DataFrame([_outcome(part) for _, part in trials.groupby("name")])
    section = Section(CHAPTER, "trials", _without_blank(table), (note,), key="trials")
    chances = _joined(
        best_of_k(scores.tolist()).assign(name=name)
        for name, scores in trials.dropna(subset="score").groupby("name")["score"]
        if len(scores) >= 2
    )
    if chances.empty:
        return section, None
    return section, _Figure(
        partial(plots.best_of_k, trials, chances, _axis(group), key),
        "line and band, the expected best of k trials drawn at random from those that finished, "
        "and where it lies in 90 % of draws; dashed, the best so far in the order tried; dots, "
        "the trials.",
    )


def _outcome(trials: pd.DataFrame) -> dict[str, str]:
    """A method's row in the table of trials."""
    counts = trials["status"].value_counts()
    others = [f"{counts[s]} {s}" for s in ("failed", "stopped", "unfinished") if s in counts]
    scores = trials["score"].dropna()
    best = trials[trials["score"] == scores.max()].head(1)
    low, high = scores.quantile(0.1), scores.quantile(0.9)
    return {
        "method": trials["name"].iloc[0],
        "trials": f"{len(trials)}" + (f" ({', '.join(others)})" if others else ""),
        "best trial": _number(scores.max()),
        "its number": "".join(best["number"].astype(str)) or "–",
        "its density (%)": _number(best["density"].mean()),
        "median trial": _number(scores.median()),
        "10–90 %": f"{low:.1f} to {high:.1f}" if len(scores) > 1 else "–",
        "trial 0": _number(trials.loc[trials["number"] == 0, "score"].mean()),
        "s/trial": f"{trials['seconds'].mean():.0f}",
        "h search": f"{trials['seconds'].sum() / 3600:.2f}",
    }


def _hyperparameters(group: list[Sweep], key: Key) -> _Part | None:
    from harness.optuna_view import IMPORTANCE, importances  # takes long to import

    rows: list[dict[str, str]] = []
    drawn: list[tuple[float, Sweep, pd.DataFrame]] = []
    for sweep in group:
        settings = setting_frame(sweep)
        if settings.empty:
            continue
        shares = importances(sweep.study, sweep.ledger) or {}
        ordered = sorted(sweep.study.space, key=lambda name: -shares.get(name, 0.0))
        rows += _settings(sweep, settings, ordered, shares)
        if len(settings) >= 2:
            drawn.append((settings.index.max(), sweep, settings[ordered]))
    if not rows:
        return None
    note = (
        "Importance: share in what sets the better half of a method's finished trials apart "
        f"({IMPORTANCE}). From fewer than 20 trials it is a hint."
    )
    section = Section(CHAPTER, "hyperparameters", pd.DataFrame(rows), (note,), key="settings")
    if not drawn:
        return section, None
    _, best, settings = max(drawn, key=lambda each: each[0])
    score, colour = f"{best.name}: {_axis(group)}", key.colour(best.name)
    return section, _Figure(
        partial(plots.sensitivity, settings, best.study.space, score, colour),
        f"the trials of {best.name}, which has the best one (ringed), by each hyperparameter, the "
        "most important first. Values outside of a range are not drawn.",
    )


def _settings(
    sweep: Sweep, settings: pd.DataFrame, ordered: list[str], shares: dict[str, float]
) -> list[dict[str, str]]:
    """A method's rows in the table of hyperparameters."""
    best = int(settings.index.argmax())
    return [
        {
            "method": sweep.name,
            "hyperparameter": name,
            "range": str(sweep.study.space[name]),
            "trial 0": _setting(sweep.study.base[name]),
            "best trial": _setting(settings[name].tolist()[best]),
            "importance": f"{shares[name]:.2f}" if shares else "–",
        }
        for name in ordered
    ]


def _density(group: list[Sweep], trials: pd.DataFrame, key: Key) -> _Part | None:
    pruned = trials.dropna(subset=["density", "score"])
    if len(pruned) < 2:
        return None
    return Section(CHAPTER, "density", key="density"), _Figure(
        partial(plots.density, pruned, _axis(group), key),
        "the share of weights that a trial's mask keeps, and its score.",
    )


def _mining(group: list[Sweep], key: Key) -> _Part | None:
    mined = _joined(mining_frame(sweep) for sweep in group)
    if mined.empty:
        return None
    rows = []
    for (name, role), part in mined.groupby(["name", "role"]):
        means = {c: spread(part[c].mean(), part[c].std(ddof=1)) for c in _MINED}
        rows.append({"method": name, "runs": f"{len(part)} {role}", **means})
    note = (
        "Training images that a method takes for bias-conflicting, against those that are: mean ± "
        "standard deviation (ddof 1) over runs, precision and recall in percent. Trials that share "
        "a stage share its set."
    )
    section = Section(CHAPTER, "mined sets", pd.DataFrame(rows), (note,), key="mining")
    drawn = mined.dropna()
    if len(drawn) < 2:
        return section, None
    caption = "hollow, search runs; filled, confirm runs."
    return section, _Figure(partial(plots.mining, drawn, key), caption)


_MINED = ("size", "precision", "recall")


def _learning(group: list[Sweep], key: Key) -> _Part | None:
    looks = _joined(learning_frame(sweep) for sweep in group)
    if looks.empty or looks.groupby(["name", "seed"]).size().max() < 2:
        return None
    return Section(CHAPTER, "learning curves", key="learning"), _Figure(
        partial(plots.learning, looks, key),
        "test results at every look of the winners' confirm runs, a line per seed. A method whose "
        "classifier comes after other stages starts late.",
    )


def _compute(group: list[Sweep], trials: pd.DataFrame, key: Key) -> _Part:
    stages = _joined(stage_frame(sweep) for sweep in group)
    section = Section(CHAPTER, "compute", key="compute")
    if len(stages):
        spent = sum(r.seconds for sweep in group for r in sweep.ledger.records.values())
        note = (
            "Stages of all search and confirm runs; one that has been computed already, by the "
            f"same method or another, is reused. That saved {stages['saved'].sum() / 3600:.2f} h "
            f"of {spent / 3600:.2f} h."
        )
        section = section._replace(table=_stages(stages), notes=(note,))
    if trials["score"].count() < 2:
        return section, None
    return section, _Figure(
        partial(plots.compute, trials, _axis(group), key),
        "line, the best score so far; marks, the trials.",
    )


def _stages(stages: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "method": stages["name"],
            "stage": stages["stage"],
            "computed": stages["computed"].astype(str),
            "reused": stages["reused"].astype(str),
            "h saved": [f"{seconds / 3600:.2f}" for seconds in stages["saved"]],
        }
    )


def _axis(group: list[Sweep]) -> str:
    """Title of the axis of validation scores."""
    rule = RULES[group[0].study.select]
    split = rule.split.removeprefix("valid_")
    return f"{split} validation {rule.metric.replace('_', ' ')} (%)"


def _number(value: float) -> str:
    return spread(value, math.nan)


def _setting(value: Scalar) -> str:
    return f"{float(f'{value:.3g}'):g}" if isinstance(value, float) else str(value)


def _without_blank(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that say something."""
    return table.loc[:, (table != "–").any()]
