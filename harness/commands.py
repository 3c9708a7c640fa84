"""What the commands that do not train do, from validated options to printed result."""

from __future__ import annotations

import keyword
from pathlib import Path
from threading import TIMEOUT_MAX

import pandas as pd

from harness import console, datasets, optuna_view, registry, tracking
from harness.conformance import Conformance
from harness.console import say
from harness.skeleton import skeleton
from harness.space import parameters
from harness.study import Store


def methods(name: str | None, dataset: str | None) -> None:
    """Lists the methods, or shows one with its hyperparameters."""
    if name is None:
        console.show(pd.DataFrame(registry.listing().items(), columns=["method", "summary"]))
        return
    method = registry.load(name)
    say(registry.summary(method))
    shown = [datasets.get(dataset).settings_name] if dataset else ["cmnist", "cifar10c"]
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


def sync(store: Store, tracking_uri: str | None) -> int:
    """Writes to MLflow what it lacks, and Optuna's storage anew; returns the exit code."""
    studies = store.studies()
    optuna_view.write_storage(store, studies)
    tracker = tracking.Tracker(store, tracking_uri or tracking.local_uri(store), studies)
    trouble = tracker.close(patience=TIMEOUT_MAX)
    where = tracking.redacted(tracker.uri)
    say(f"warning: {trouble}" if trouble else f"{len(studies)} studies are in {where}")
    return 1 if trouble else 0


def ui(store: Store, tracking_uri: str | None, port: int) -> int:
    """Serves the tracking UI on this machine until interrupted."""
    say(f"MLflow UI on http://127.0.0.1:{port} (Ctrl-C ends it)")
    say(f"for Optuna's view: pip install optuna-dashboard; optuna-dashboard {store.optuna_journal}")
    return tracking.serve(tracking_uri or tracking.local_uri(store), store, port)
