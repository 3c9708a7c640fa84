"""The command line: options and their documentation. What they do is in `jobs` and `commands`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Sweep, confirm and rank debiasing methods for image classifiers.",
)
data = typer.Typer(no_args_is_help=True, help="List, build, show and export data sets.")
app.add_typer(data, name="data")
stores = typer.Typer(no_args_is_help=True, help="Check and repair a folder of results.")
app.add_typer(stores, name="store")

Methods = Annotated[list[str], typer.Option("--method", help="Method; repeat for several.")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="Python file that defines a method; repeat for several."),
]
Datasets = Annotated[list[str], typer.Option("--dataset", help="Data set; repeat for several.")]
Ratios = Annotated[
    list[float] | None,
    typer.Option(
        "--ratio",
        help="Conflicting share in percent, of data sets that leave it open; repeat for several.  "
        "[default: 1]",
    ),
]
Ratio = Annotated[
    float | None,
    typer.Option(
        help="Conflicting share in percent, if the data set leaves it open.  [default: 1]"
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="NAME=VALUE: a hyperparameter, no longer searched."),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="paper: the authors' schedule; quick: one for two CPU cores.  "
        "[default: paper with an accelerator, else quick]"
    ),
]
Device = Annotated[
    str | None, typer.Option(help="cpu or cuda.  [default: cuda where there is one]")
]
StorePath = Annotated[Path, typer.Option("--store", help="Folder of results.")]
DataPath = Annotated[
    Path | None,
    typer.Option(
        "--data-root", help="Folder of data sets.  [default: $HARNESS_DATA, ~/.cache/harness-data]"
    ),
]
Amp = Annotated[
    bool, typer.Option("--amp", help="Compute in bfloat16 where that is safe; for accelerators.")
]
DataSeed = Annotated[int, typer.Option(help="Seed that the biased data set is drawn with.")]
TrackingUri = Annotated[
    str | None,
    typer.Option(help="MLflow tracking server.  [default: a database in the store]"),
]
STORE = Path("harness-store")


@app.command()
def sweep(
    method: Methods,
    dataset: Datasets,
    ratio: Ratios = None,
    plugin: Plugins = None,
    preset: Preset = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Settings to try.  [default: by preset]")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Fresh seeds the winner is confirmed on.  [default: by preset]"),
    ] = None,
    search_seeds: Annotated[int, typer.Option(min=1, help="Seeds every trial is run with.")] = 1,
    searcher: Annotated[str, typer.Option(help="tpe, random, grid or cmaes.")] = "tpe",
    scheduler: Annotated[
        str, typer.Option(help="none, or asha: stop trials that fall behind.")
    ] = "none",
    select: Annotated[str, typer.Option(help="Rule that chooses the winner.")] = "unbiased",
    set_: Sets = None,
    fix: Annotated[
        list[str] | None, typer.Option(help="NAME: keep at the preset's value, do not search.")
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME or NAME=RANGE: also search this; RANGE is low:high, log:low:high, "
            "int:low:high or a,b,c."
        ),
    ] = None,
    space: Annotated[
        Path | None, typer.Option(help="TOML file of ranges, instead of the default space.")
    ] = None,
    budget_hours: Annotated[
        float | None, typer.Option(min=0, help="Propose no new trial after this many hours.")
    ] = None,
    trial_timeout: Annotated[
        float | None, typer.Option(min=0.01, help="A run that takes more minutes has failed.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Runs at once.  [default: cores, or 2 per GPU]")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Address of a running Ray cluster.")] = None,
    device: Device = None,
    amp: Amp = False,
    data_seed: DataSeed = 0,
    store: StorePath = STORE,
    data_root: DataPath = None,
    tracking_uri: TrackingUri = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget what these studies have so far.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say the plan; train nothing.")
    ] = False,
) -> int:
    """Search each method's hyperparameters on each data set, confirm the winner, rank.

    The same command continues where an interrupted one stopped; more --trials extend it.
    """
    from harness import jobs
    from harness.compose import Choice
    from harness.study import Store

    choice = Choice(
        methods=method, datasets=dataset, ratios=ratio or [], plugins=plugin or [],
        preset=preset, device=device,
        set=set_ or [], fix=fix or [], search=search or [], space=space, searcher=searcher,
        scheduler=scheduler, select=select, search_seeds=search_seeds, data_seed=data_seed,
        amp=amp,
    )  # fmt: skip
    return jobs.sweep(
        choice, Store(store), data_root, trials, seeds, budget_hours, trial_timeout, concurrency,
        address, tracking_uri, fresh, dry_run,
    )  # fmt: skip


@app.command()
def train(
    method: Annotated[str, typer.Option(help="Method.")],
    dataset: Annotated[str, typer.Option(help="Data set.")],
    ratio: Ratio = None,
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
    plugin: Plugins = None,
    preset: Preset = None,
    set_: Sets = None,
    device: Device = None,
    amp: Amp = False,
    data_seed: DataSeed = 0,
    store: StorePath = STORE,
    data_root: DataPath = None,
    tracking_uri: TrackingUri = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Run it twice instead, keep nothing, and say whether all bits agree."
        ),
    ] = False,
) -> int:
    """Train one setting with one seed, without a search, and test it."""
    from harness import jobs, verification
    from harness.compose import Choice
    from harness.study import Store

    choice = Choice(
        methods=[method], datasets=[dataset], ratios=[] if ratio is None else [ratio],
        plugins=plugin or [],
        preset=preset, device=device,
        set=set_ or [], data_seed=data_seed, amp=amp,
    )  # fmt: skip
    if verify:
        return verification.verify(choice, data_root, seed)
    return jobs.train(choice, Store(store), data_root, seed, tracking_uri)


@app.command()
def leaderboard(
    format_: Annotated[
        str, typer.Option("--format", help="table, markdown, latex, csv, json or html.")
    ] = "table",
    output: Annotated[Path | None, typer.Option(help="Write to this file.")] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(help="Only this data set; repeat for several.")
    ] = None,
    no_bias_labels: Annotated[
        bool,
        typer.Option("--no-bias-labels", help="Leave out methods that train on bias labels."),
    ] = False,
    results: Annotated[
        list[Path] | None,
        typer.Option(
            help="CSV file of further results: dataset, method, seed and metrics; repeat for "
            "several."
        ),
    ] = None,
    results_only: Annotated[
        bool, typer.Option("--results-only", help="Leave the store out.")
    ] = False,
    metric: Annotated[str | None, typer.Option(help="Metric of the CSV files to rank by.")] = None,
    checkpoint: Annotated[
        str, typer.Option(help="Rule that picks the checkpoint of a run; last or as --select.")
    ] = "last",
    failures: Annotated[
        str, typer.Option(help="Failed runs: leave-out, keep (suspected ones) or impute-worst.")
    ] = "leave-out",
    against: Annotated[
        str | None, typer.Option(help="Method to test against each other one.")
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="Also write the figures to this folder, as PNG.")
    ] = None,
    store: StorePath = STORE,
) -> None:
    """Rank the confirmed results in the store, with statistics, selection rules and figures."""
    from harness import reporting
    from harness.study import Store

    view = reporting.View(
        format_, output, dataset or [], no_bias_labels, results or [], results_only, metric,
        checkpoint, failures, against, png,
    )  # fmt: skip
    reporting.leaderboard(Store(store), view)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="A method, for its hyperparameters.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Show the published settings for this data set only.")
    ] = None,
) -> None:
    """List the methods, or the hyperparameters of one."""
    from harness import commands

    commands.methods(name, dataset)


@app.command()
def check(
    method: Annotated[str, typer.Argument(help="Method.")],
    plugin: Annotated[Path | None, typer.Option(help="Python file that defines it.")] = None,
) -> int:
    """Check that a method keeps the harness's contract; says in words what is wrong."""
    from harness import commands

    return commands.check(method, plugin)


@app.command()
def new_method(
    name: Annotated[str, typer.Argument(help="Name of the method and its file.")],
    folder: Annotated[Path, typer.Option(help="Where the file is written.")] = Path(),
) -> None:
    """Write a working method to start from."""
    from harness import commands

    commands.new_method(name, folder)


DataName = Annotated[
    str, typer.Argument(help="Data set: NAME or NAME:ARGUMENT; `harness data list` shows them.")
]


@data.command("list")
def data_list() -> None:
    """List the data sets."""
    from harness import data_commands

    data_commands.list_()


@data.command()
def prepare(
    name: DataName,
    ratio: Ratio = None,
    data_seed: DataSeed = 0,
    data_root: DataPath = None,
) -> None:
    """Fetch the raw files and build the arrays, once."""
    from harness import data_commands

    data_commands.prepare(name, ratio, data_seed, data_root)


@data.command()
def show(
    name: DataName,
    ratio: Ratio = None,
    data_seed: DataSeed = 0,
    data_root: DataPath = None,
    image: Annotated[
        Path | None, typer.Option(help="Also write a contact sheet, PNG or JPEG, to this file.")
    ] = None,
) -> None:
    """Print the card of a data set: sizes, groups, sources with md5, build time, disk."""
    from harness import data_commands

    data_commands.show(name, ratio, data_seed, data_root, image)


@data.command()
def export(
    name: DataName,
    target: Annotated[Path, typer.Argument(help="Folder to write; may hold other ratios.")],
    ratio: Ratio = None,
    data_seed: DataSeed = 0,
    data_root: DataPath = None,
) -> None:
    """Write a data set as PNG files in the folder layout of DisEnt; folder:PATH reads it back."""
    from harness import data_commands

    data_commands.export_(name, target, ratio, data_seed, data_root)


@stores.command("check")
def store_check(store: StorePath = STORE) -> int:
    """Say what is wrong with a store, without changing it; exit code 1 if anything is."""
    from harness import upkeep
    from harness.study import Store

    return upkeep.check(Store(store))


@stores.command()
def repair(store: StorePath = STORE) -> int:
    """Mend what check finds; nothing of which there is one copy is deleted."""
    from harness import upkeep
    from harness.study import Store

    return upkeep.repair(Store(store))


@app.command()
def sync(store: StorePath = STORE, tracking_uri: TrackingUri = None) -> int:
    """Write to MLflow what it lacks of the store."""
    from harness import commands
    from harness.study import Store

    return commands.sync(Store(store), tracking_uri)


@app.command()
def ui(
    store: StorePath = STORE,
    tracking_uri: TrackingUri = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
) -> int:
    """Open the MLflow UI on the store, on this machine only."""
    from harness import commands
    from harness.study import Store

    return commands.ui(Store(store), tracking_uri, port)


def main() -> None:
    """Runs the command line; a wrong input is one line and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except TyperException as error:
        _fail(error.format_message(), error.exit_code)
    except ValueError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted; the same command continues", 130)
    except BrokenPipeError:  # e.g. `harness leaderboard | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename or 'operating system'}: {error.strerror or error}", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    print(message if message.startswith("Usage") else f"error: {message}", file=sys.stderr)
    sys.exit(code)
