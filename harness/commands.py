"""What the commands that do not train do, from validated options to printed result."""

from __future__ import annotations

import keyword
from pathlib import Path

import pandas as pd

from harness import console, datasets, registry, tracking
from harness.conformance import Conformance
from harness.console import say
from harness.jobs import prepare_data, show_board
from harness.skeleton import skeleton
from harness.space import parameters, unknown
from harness.study import Store
from reports import leaderboard as reports


def leaderboard(store: Store, form: str, only: list[str] | None, no_bias_labels: bool) -> None:
    """Prints the ranking of all confirmed results."""
    if form not in reports.FORMATS:
        raise ValueError(unknown("format", form, reports.FORMATS))
    runs = reports.confirmed_runs(store)
    if only and not runs.empty:
        runs = runs[runs["dataset"].isin([datasets.get(name).name for name in only])]
    if no_bias_labels and not runs.empty:
        runs = runs[~runs["bias_labels_in_training"]]
    board = reports.leaderboard(runs)
    match form:
        case "table":
            show_board(board)
        case "markdown":
            print(reports.to_markdown(board), end="")
        case "csv":
            print(board.to_csv(index=False), end="")


def methods(name: str | None, dataset: str | None) -> None:
    """Lists the methods, or shows one with its hyperparameters."""
    if name is None:
        names = registry.names()
        summaries = [registry.summary(registry.load(each)) for each in names]
        console.show(pd.DataFrame({"method": names, "summary": summaries}))
        return
    method = registry.load(name)
    say(registry.summary(method))
    shown = [datasets.get(dataset).name] if dataset else list(datasets.RECIPES)
    space = registry.search_space(method, shown[0]) if dataset else {}
    published = {d: registry.preset_settings(name, "paper", d, 1.0) for d in shown}
    rows = []
    for parameter in parameters(method).values():
        search = space.get(parameter.name, parameter.search)
        searched = f"{search}{' (on request)' if parameter.on_request else ''}" if search else ""
        values = {d: s[parameter.name] for d, s in published.items() if parameter.name in s}
        authors = ", ".join(f"{d}: {v}" for d, v in values.items())
        rows.append((parameter.name, str(parameter.default), searched, authors, parameter.doc))
    columns = ["hyperparameter", "default", "range", "authors' setting (1 %)", "meaning"]
    console.show(pd.DataFrame(rows, columns=columns))


def check(name: str, plugin: Path | None) -> int:
    """Runs a method's conformance checks; returns the exit code."""
    method = registry.load(name, str(plugin.resolve()) if plugin else "")
    faults = 0
    for finding in Conformance(method).findings():
        say(f"{'FAULT' if finding.fault else 'ok   '} {finding.check}")
        if finding.fault:
            say(f"      {finding.fault}")
            faults += 1
    say(f"{name}: {faults} faults" if faults else f"{name} conforms")
    return 1 if faults else 0


def new_method(name: str, folder: Path) -> None:
    """Writes a working method to start from."""
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise ValueError(f"{name!r} cannot name a method: use lower-case letters, digits and _")
    path = folder / f"{name}.py"
    try:
        with path.open("x") as file:  # never overwrites
            file.write(skeleton(name))
    except FileExistsError:
        raise ValueError(f"{path} exists; choose another name") from None
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from None
    say(f"wrote {path}; next: harness check {name} --plugin {path}")


def datasets_(name: str | None, ratio: float, seed: int, data_root: Path | None) -> None:
    """Lists the data sets, or shows the card of one."""
    root = data_root or datasets.default_root()
    if name is None:
        rows = [
            (r.name, ", ".join(f"{x:g}" for x in r.ratios), r.summary)
            for r in datasets.RECIPES.values()
        ]
        console.show(pd.DataFrame(rows, columns=["data set", "published ratios (%)", "summary"]))
        return
    recipe = datasets.get(name)
    manifest = datasets.describe(name, root, ratio, seed)
    say(f"{recipe.name}: {recipe.summary}")
    say(f"classes {recipe.num_classes}, attributes {recipe.num_attributes}, "
        f"images {'x'.join(map(str, recipe.image_shape))}")  # fmt: skip
    say(f"sources: {recipe.sources}")
    if manifest is None:
        say(f"ratio {ratio:g} is not on disk: `harness data prepare {name} --ratio {ratio:g}`")
        return
    say(f"on disk in {root}, built in {manifest['build_seconds']:.0f} s")
    console.show(reports.groups_table(manifest["groups"], recipe.aligned_table()))


def prepare(name: str, ratio: float, seed: int, data_root: Path | None) -> None:
    """Fetches raw files and builds arrays, unless they are there."""
    root = data_root or datasets.default_root()
    say(str(prepare_data(name, root, ratio, seed)))


def sync(store: Store, tracking_uri: str | None) -> int:
    """Writes to MLflow what it lacks; returns the exit code."""
    uri = tracking_uri or tracking.local_uri(store)
    studies = store.studies()
    trouble = tracking.Tracker(store, uri, studies).close(patience=float("inf"))
    say(f"warning: {trouble}" if trouble else f"{len(studies)} studies are in {uri}")
    return 1 if trouble else 0


def ui(store: Store, tracking_uri: str | None, port: int) -> int:
    """Serves the tracking UI on this machine until interrupted."""
    say(f"MLflow UI on http://127.0.0.1:{port} (Ctrl-C ends it)")
    return tracking.serve(tracking_uri or tracking.local_uri(store), store, port)
