"""What `harness leaderboard` does. Loads neither torch nor Ray, so that it answers in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

from harness import console
from harness.console import say
from harness.selection import CHECKPOINTS, LAST
from harness.space import unknown
from harness.study import Snapshot, Store
from reports import formats, page, plots
from reports.leaderboard import FAILURES, Failures
from reports.report import Report, make_report
from reports.results import from_csv, from_store, merged
from reports.section import Section

FORMATS = ("table", "markdown", "latex", "csv", "json", "html")


class View(NamedTuple):
    """What is reported, and how, as typed."""

    form: str = "table"
    output: Path | None = None
    datasets: Sequence[str] = ()
    no_bias_labels: bool = False
    results: Sequence[Path] = ()
    results_only: bool = False
    metric: str | None = None
    checkpoint: str = LAST
    failures: str = "leave-out"
    against: str | None = None
    png: Path | None = None

    @property
    def to_terminal(self) -> bool:
        """Whether tables are printed for a person to read."""
        return self.form == "table" and self.output is None


def leaderboard(store: Store, view: View) -> None:
    """Prints or writes the report on a store, on files of results, or on both.

    Raises:
        ValueError: Something typed does not exist, or a file cannot be read or written.
    """
    for kind, name, known in (
        ("format", view.form, FORMATS),
        ("checkpoint rule", view.checkpoint, CHECKPOINTS),
        ("treatment of failures", view.failures, FAILURES),
    ):
        if name not in known:
            raise ValueError(unknown(kind, name, known))
    report = _report(store, view)
    if view.png is not None:
        _write_figures(report.sections, view.png)
    if view.to_terminal:
        show(report.sections)
        if report.sections:
            say("more tables, and the figures: `--format html --output report.html`")
        return
    text = _text(report, view.form)
    if view.output is None:
        print(text, end="")
        return
    try:
        view.output.write_text(text)
    except OSError as error:
        raise ValueError(f"cannot write {view.output}: {error.strerror}") from None
    say(f"wrote {view.output}")


def _report(store: Store, view: View) -> Report:
    store = Snapshot(store.root)
    studies = [] if view.results_only else store.studies()
    frames = [from_csv(path, view.metric) for path in view.results]
    if studies:
        frames.insert(0, from_store(store, studies, view.checkpoint))
    runs = merged(frames)
    if view.datasets:
        held = sorted({*runs.get("dataset", [])})
        for name in view.datasets:
            if name not in held:
                raise ValueError(unknown("data set", name, held))
        runs = runs[runs["dataset"].isin(list(view.datasets))]
        studies = [study for study in studies if study.dataset in view.datasets]
    if view.no_bias_labels and not runs.empty:
        runs = runs[runs["bias_labels_in_training"] != "yes"]
    failures = cast(Failures, view.failures)
    figures = view.form == "html" or view.png is not None
    details = figures or not view.to_terminal
    ran = store if studies else None
    return make_report(runs, ran, studies, failures, view.against, figures, details)


def _text(report: Report, form: str) -> str:
    match form:
        case "csv":
            return report.runs.to_csv(index=False)
        case "json":
            return formats.json_text(report.sections, report.runs)
        case "latex":
            return formats.latex(report.sections)
        case "html":
            return html(report)
        case _:
            return formats.markdown(report.sections)


def html(report: Report) -> str:
    """The report as one self-contained page."""
    runs, cells = report.runs, report.board
    held = 0 if cells.empty else len(cells[["dataset", "ratio"]].drop_duplicates())
    methods = 0 if cells.empty else cells["method"].nunique()
    subtitle = f"{len(runs)} tested runs of {methods} methods on {held} benchmark cells"
    return page.html(report.sections, "Debiasing leaderboard", subtitle)


def show(sections: Sequence[Section]) -> None:
    """Prints sections on the terminal; figures and details are left out, and said to be."""
    if not sections:
        say("no confirmed results yet")
    chapter = ""
    for section in (each for each in sections if not each.detail):
        if section.chapter != chapter:
            chapter = section.chapter
            say(f"\n{chapter.upper()}")
        say(f"\n{section.title}")
        for note in section.notes:
            say(f"  {note}")
        if not section.table.empty:
            console.show(section.table)


def _write_figures(sections: Sequence[Section], folder: Path) -> None:
    """Writes every figure of a report as PNG."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for section in sections:
            if section.figure:
                (folder / f"{section.key}.png").write_bytes(plots.png(section.figure))
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}") from None
    say(f"wrote {sum(bool(s.figure) for s in sections)} figures to {folder}")


def artifacts(report: Report) -> dict[str, str]:
    """The files that a study's tracking run keeps of a report, by name."""
    if report.runs.empty:
        return {}
    return {"leaderboard.md": formats.markdown(report.sections), "leaderboard.html": html(report)}
