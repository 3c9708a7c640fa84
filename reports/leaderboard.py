"""The leaderboard: mean test results over seeds, ranked within equal conditions."""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd

from harness.ledger import Record
from harness.selection import LAST, RULES
from harness.study import Study
from reports.results import CONDITIONS, METRICS, metrics_of
from reports.section import Section, spread
from reports.statistics import interval

Failures = Literal["leave-out", "keep", "impute-worst"]
FAILURES: dict[Failures, str] = {
    "leave-out": "failed runs are left out of the means",
    "keep": "runs suspected to have failed count as they are",
    "impute-worst": "failed runs count as the worst run of their ranking",
}
"""What becomes of runs that failed, or that look as if they had."""

OF_ONE_RUN = ["seed", "status", "error", "collapsed", "groups", "zero_groups"]
MEASURED = ["density", "parameters", "parameters_kept", "seconds"]


def suspect(runs: pd.DataFrame) -> pd.Series[bool]:
    """Which runs have a result that looks like a failure: one class predicted, or only zeros."""
    measured = runs[metrics_of(runs)]
    zeros = (measured.isna() | (measured == 0)).all(axis=1) & measured.notna().any(axis=1)
    return runs["collapsed"] | zeros


def failed(runs: pd.DataFrame) -> pd.Series[bool]:
    """Which runs have no result to rank by."""
    return (runs["status"] != "finished") | runs["primary"].isna()


def duplicated(runs: pd.DataFrame) -> pd.Series[bool]:
    """Which runs repeat an earlier row: same conditions, method and seed."""
    return runs.duplicated([*CONDITIONS, "method", "study", "source", "seed"])


def counted(runs: pd.DataFrame, failures: Failures) -> pd.DataFrame:
    """The runs that enter the means, after duplicates and failures are dealt with.

    Args:
        runs: The tidy frame of :mod:`reports.results`.
        failures: Whether failed runs are left out (they can never be kept: they have no number),
            suspected ones too; kept; or replaced in every metric by the worst of their ranking.
    """
    runs = runs[~duplicated(runs)]
    broken = failed(runs)
    out = broken | (suspect(runs) & (failures != "keep"))
    if failures != "impute-worst":
        return runs[~out]
    scores = ["primary", *metrics_of(runs)]
    worst = runs.assign(**{c: runs[c].where(~out) for c in scores})
    worst = worst.groupby(CONDITIONS, dropna=False)[scores].transform("min")
    imputed = runs.copy()
    imputed[scores] = imputed[scores].where(~out, worst, axis=0)
    return imputed[imputed["primary"].notna()]


def leaderboard(runs: pd.DataFrame, failures: Failures = "leave-out") -> pd.DataFrame:
    """Mean and standard deviation (ddof 1) over seeds, ranked by the primary metric.

    Returns:
        One row per conditions, method and study: `<metric>` and `<metric>_std`, the 95 % interval
        `low` and `high` of the primary metric, `n` runs counted of `runs`, and `rank`.
    """
    if runs.empty:
        return runs
    runs = runs.reset_index(drop=True)
    # Groups by number, as pandas does not align keys that hold NaN.
    row = runs.groupby([*CONDITIONS, "method", "study", "source"], dropna=False).ngroup()
    everyone = runs[~duplicated(runs)].groupby(row)
    enter = counted(runs, failures).groupby(row)
    scores = ["primary", *metrics_of(runs), *MEASURED]
    board = everyone[[c for c in runs.columns if c not in {*scores, *OF_ONE_RUN}]].first()
    board["runs"] = everyone.size()
    board["n"] = enter.size().reindex(board.index, fill_value=0)
    board = board.join(enter[scores].mean()).join(enter[scores].std(ddof=1).add_suffix("_std"))
    ends = {key: interval(values.tolist()) for key, values in enter["primary"]}
    board[["low", "high"]] = pd.DataFrame.from_dict(ends, orient="index", columns=["low", "high"])
    ranked = board.groupby(CONDITIONS, dropna=False)["primary"]
    board["rank"] = ranked.rank(ascending=False, method="min")
    return board.sort_values([*CONDITIONS, "rank", "method", "study"], ignore_index=True)


def rankings(board: pd.DataFrame, failures: Failures = "leave-out") -> list[Section]:
    """A section per ranking, whose title and notes state all that its rows share."""
    if board.empty:
        return []
    sections = []
    for number, (conditions, part) in enumerate(board.groupby(CONDITIONS, dropna=False), 1):
        stated = dict(zip(CONDITIONS, conditions, strict=True))
        notes = [_conditions_in_words(stated), _how_to_read(part, failures), *_unequal(part)]
        sections.append(
            Section("Leaderboard", _title(stated), _presentable(part), tuple(filter(None, notes)),
                    key=f"leaderboard-{number}")
        )  # fmt: skip
    return sections


def cell_name(dataset: str, ratio: float) -> str:
    """A benchmark cell in words."""
    return dataset if pd.isna(ratio) else f"{dataset}, {ratio:g} % conflicting"


def cell_names(frame: pd.DataFrame) -> list[str]:
    """The benchmark cell of each row, in words."""
    return [cell_name(*cell) for cell in zip(frame["dataset"], frame["ratio"], strict=True)]


def method_names(board: pd.DataFrame) -> pd.Series[str]:
    """Methods by name, with their study where a ranking holds one twice (its code was edited)."""
    twice = board.duplicated([*CONDITIONS, "method"], keep=False)
    suffix = board["study"].str[-8:].where(board["study"] != "", board["source"])
    return board["method"].where(~twice, board["method"] + " " + suffix)


def _title(stated: dict[str, Any]) -> str:
    preset = f", preset {stated['preset']}" if stated["preset"] else ""
    return f"{cell_name(stated['dataset'], stated['ratio'])}{preset}"


def _conditions_in_words(stated: dict[str, Any]) -> str:
    rule = RULES.get(stated["selection"])
    if rule is None:
        said = f"Selection: {stated['selection'] or 'not stated'}."
    else:
        labels = "needs bias labels" if rule.needs_bias_labels else "needs no bias labels"
        said = f"Trials selected by {rule.doc} ({labels})."
    if stated["checkpoint"] == LAST:
        said += " Judged at the last step."
    elif stated["checkpoint"]:
        said += f" Judged at the checkpoint that rule {stated['checkpoint']} picks."
    if stated["data_seed"]:  # NaN, too: unknown
        said += "" if pd.isna(stated["data_seed"]) else f" Data seed {stated['data_seed']:g}."
    return said


def _how_to_read(part: pd.DataFrame, failures: Failures) -> str:
    metric = ", ".join(sorted({str(m).replace("_", " ") for m in part["primary_metric"] if m}))
    return (
        f"Ranked by {metric or 'the primary metric'} on the test split, in percent. ± is the "
        "standard deviation (ddof 1) over n training seeds, data and hyperparameters fixed; the "
        "interval is the bootstrap 95 % interval of the mean over these seeds, too narrow for few; "
        f"{FAILURES[failures]}."
    )


def _unequal(part: pd.DataFrame) -> list[str]:
    """What differs between the rows and must not go unnoticed."""
    notes = []
    for column, what in (("backbone", "Networks"), ("weights", "Initial weights")):
        values = sorted({str(v) for v in part[column] if v})
        if len(values) > 1:
            notes.append(f"{what} differ within this ranking: {', '.join(values)}.")
    if part["n"].nunique() > 1:
        counts = ", ".join(f"{m} {n}" for m, n in zip(method_names(part), part["n"], strict=True))
        notes.append(f"Unequal numbers of seeds: {counts}.")
    return notes


def _presentable(part: pd.DataFrame) -> pd.DataFrame:
    """The columns a person reads, as text."""

    def column(name: str, digits: int = 1, scale: float = 1.0) -> list[str]:
        pairs = zip(part[name] / scale, part[f"{name}_std"] / scale, strict=True)
        return [spread(mean, std, digits) for mean, std in pairs]

    def known(name: str, scale: float = 1.0, digits: int = 0) -> list[str]:
        return ["–" if pd.isna(v) else f"{v / scale:.{digits}f}" for v in part[name]]

    shown = [c for c in metrics_of(part) if c in METRICS and c != "worst_class"]
    shown = [c for c in shown if part[c].notna().any()] or ["primary"]
    shown += [c for c in _other_metrics(part) if part[c].notna().any()]
    net = part["backbone"].where(
        part["weights"].isin(["", "none"]), part["backbone"] + " (" + part["weights"] + ")"
    )
    bounds = zip(part["low"], part["high"], strict=True)
    table = {
        "#": ["–" if pd.isna(rank) else f"{rank:.0f}" for rank in part["rank"]],
        "method": list(method_names(part)),
        "net": list(net),
        **{c.replace("_", " "): column(c) for c in shown},
        "95 % interval": ["–" if pd.isna(x) else f"{x:.1f}–{y:.1f}" for x, y in bounds],
        "kept": [
            _kept(*pair) for pair in zip(part["density"], part["parameters_kept"], strict=True)
        ],
        "n": [
            f"{n}" if n == runs else f"{n} of {runs}"
            for n, runs in zip(part["n"], part["runs"], strict=True)
        ],
        "trials": known("trials"),
        "s/run": known("seconds"),
        "h search": known("search_seconds", 3600, 2),
        "labels in training": [v or "–" for v in part["bias_labels_in_training"]],
    }
    return pd.DataFrame(
        {name: cells for name, cells in table.items() if any(c not in ("", "–") for c in cells)}
    )


def _kept(density: float, parameters: float) -> str:
    """Share of the weights that pruning kept, and what that leaves of the network."""
    if pd.isna(density):
        return "–"
    return f"{density:.2f}" + ("" if pd.isna(parameters) else f" ({parameters / 1e6:.2f} M)")


def _other_metrics(part: pd.DataFrame) -> list[str]:
    """Metrics of imported results that the harness has no name for."""
    columns = {*METRICS, "rank", "n", "runs", "low", "high"}
    return [c for c in metrics_of(part) if c not in columns and not c.endswith("_std")]


def splits_table(study: Study, record: Record) -> pd.DataFrame:
    """The last look of one run: a row per split, accuracies in percent, as text."""
    rows = {}
    for split in record.open_splits:
        metrics = record.evaluation(split, study.aligned).metrics()
        rows[split] = {n.replace("_", " "): f"{100 * value:.1f}" for n, value in metrics.items()}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.insert(0, "split", table.index)
    return table
