"""The leaderboard: confirmed test results, ranked within equal conditions."""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.ledger import Record
from harness.selection import RULES
from harness.study import Store, Study

FORMATS = ("table", "markdown", "csv")

CONDITIONS = ["dataset", "ratio", "preset", "selection", "data_seed"]
"""Results that differ in one of these are never ranked together."""

ACCURACIES = {
    "unbiased": "accuracy",  # the test splits draw the attribute uniformly
    "aligned": "aligned_accuracy",
    "conflicting": "conflicting_accuracy",
    "worst_group": "worst_group_accuracy",
}
"""Column -> metric of the test split's group table, in percent here."""


def confirmed_runs(store: Store, studies: set[str] | None = None) -> pd.DataFrame:
    """One row per confirm run of each study's winner.

    Args:
        store: Where the ledgers are.
        studies: Study ids to keep; None for all.

    Returns:
        Conditions, method, study, seed, test accuracies in percent, density (share of weights kept;
        1 for dense networks), compute seconds of the run and of its search, and what bias labels
        were used for.
    """
    rows = []
    for study in store.studies():
        if studies is not None and study.id not in studies:
            continue
        ledger = store.ledger(study.id)
        search_seconds = sum(record.seconds for record in ledger.of("search"))
        trials = len({record.number for record in ledger.of("search")})
        for record in study.confirmed(ledger):
            test = record.evaluation("test", study.aligned).metrics()
            rows.append(
                {
                    "dataset": study.dataset,
                    "ratio": study.ratio,
                    "preset": study.preset,
                    "selection": study.select,
                    "data_seed": study.data_seed,
                    "method": study.method,
                    "study": study.id,
                    "seed": record.seed,
                    **{column: 100 * test[metric] for column, metric in ACCURACIES.items()},
                    "density": record.metrics.get("density", 1.0),
                    "backbone": record.settings.get("backbone.arch", ""),
                    "bias_labels_in_training": record.uses_bias_labels,
                    "bias_labels_in_selection": RULES[study.select].needs_bias_labels,
                    "trials": trials,
                    "seconds": record.seconds,
                    "search_seconds": search_seconds,
                }
            )
    return pd.DataFrame(rows)


def leaderboard(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation (ddof 1) over confirm seeds, best unbiased accuracy first.

    Args:
        runs: What :func:`confirmed_runs` returns.

    Returns:
        One row per study; columns `<metric>` and `<metric>_std`, and `rank` within the conditions.
    """
    if runs.empty:
        return runs
    measured = [*ACCURACIES, "density", "seconds"]
    fixed = [c for c in runs.columns if c not in (*measured, "seed", *CONDITIONS, "study")]
    groups = runs.groupby([*CONDITIONS, "study"], sort=True)
    board = groups[fixed].first()
    board["n"] = groups.size()
    for column in measured:
        board[column] = groups[column].mean()
        board[f"{column}_std"] = groups[column].std(ddof=1)
    board = board.reset_index()
    ranks = board.groupby(CONDITIONS)["unbiased"].rank(ascending=False, method="min")
    board["rank"] = ranks.astype(int)
    return board.sort_values([*CONDITIONS, "rank", "study"], ignore_index=True)


def titles(board: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The board split into rankings, each with a heading that states its conditions."""
    rankings: list[tuple[str, pd.DataFrame]] = []
    if board.empty:
        return rankings
    for conditions, part in board.groupby(CONDITIONS, sort=True):
        dataset, ratio, preset, selection, data_seed = conditions
        rule = RULES[str(selection)]
        labels = "needs bias labels" if rule.needs_bias_labels else "needs no bias labels"
        heading = (
            f"{dataset}, {ratio:g} % conflicting, preset {preset}; trials selected by "
            f"{rule.doc} ({labels})"
        )
        if data_seed:
            heading += f"; data seed {data_seed}"
        rankings.append((heading, presentable(part)))
    return rankings


def presentable(board: pd.DataFrame) -> pd.DataFrame:
    """The columns a person reads, as text: accuracies in percent as mean ± std."""

    def spread(column: str, digits: int) -> list[str]:
        pairs = zip(board[column], board[f"{column}_std"], strict=True)
        return [
            f"{mean:.{digits}f}" + ("" if pd.isna(std) else f" ± {std:.{digits}f}")
            for mean, std in pairs
        ]

    # The same method twice: an edit of its code or other --set values made another study.
    twice = board["method"].duplicated(keep=False)
    names = board["method"].where(~twice, board["method"] + " " + board["study"].str[-8:])
    labels = board["bias_labels_in_training"].map({True: "yes", False: "no"})
    return pd.DataFrame(
        {
            "#": board["rank"].astype(str),
            "method": names,
            "net": board["backbone"],
            "unbiased": spread("unbiased", 1),
            "aligned": spread("aligned", 1),
            "conflicting": spread("conflicting", 1),
            "worst group": spread("worst_group", 1),
            "density": spread("density", 2),
            "n": board["n"].astype(str),
            "trials": board["trials"].astype(str),
            "s/run": spread("seconds", 0),
            "s search": [f"{seconds:.0f}" for seconds in board["search_seconds"]],
            "trains on bias labels": labels,
        }
    )


def to_markdown(board: pd.DataFrame) -> str:
    """One pipe table per ranking; empty without results."""
    blocks = []
    for heading, part in titles(board):
        header = "| " + " | ".join(part.columns) + " |"
        rule = "|" + "---|" * len(part.columns)
        lines = ["| " + " | ".join(row) + " |" for row in part.itertuples(index=False)]
        blocks.append("\n".join([f"**{heading}**", "", header, rule, *lines]))
    return "\n\n".join(blocks) + "\n"


def splits_table(study: Study, record: Record) -> pd.DataFrame:
    """The last look of one run: a row per split, accuracies in percent, as text."""
    rows = {}
    for split in record.total:
        metrics = record.evaluation(split, study.aligned).metrics()
        rows[split] = {n.replace("_", " "): f"{100 * value:.1f}" for n, value in metrics.items()}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.insert(0, "split", table.index)
    return table


def groups_table(groups: dict[str, list[list[int]]], aligned: np.ndarray) -> pd.DataFrame:
    """Size and conflict share of each split of a data set, as text."""
    rows = []
    for split, counts in groups.items():
        table = np.array(counts)
        conflicting = int(table[~aligned].sum())
        share = 100 * conflicting / int(table.sum())
        rows.append(
            (split, str(table.sum()), str(table[aligned].sum()), str(conflicting), f"{share:.2f} %")
        )
    columns = ["split", "images", "aligned", "conflicting", "conflicting share"]
    return pd.DataFrame(rows, columns=columns)
