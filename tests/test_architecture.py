"""Rules of the code base that imports show."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.stages import NUMERICS

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    path.relative_to(ROOT)
    for folder in ("harness", "methods", "search_spaces", "reports")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
METHODS = [path for path in SOURCES if path.parts[0] == "methods" and path.stem != "__init__"]


def name_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path) for path in SOURCES}


def imports(path: Path) -> Iterator[str]:
    """Full names of everything a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(path: Path) -> set[str]:
    """Our own modules that a file imports."""
    return {
        next(n for n in (name, name.rsplit(".", 1)[0]) if n in MODULES)
        for name in imports(path)
        if {name, name.rsplit(".", 1)[0]} & MODULES
    }


def test_all_files_are_found() -> None:
    assert {Path("harness/cli.py"), Path("harness/datasets/store.py"), Path("methods/dcwp.py")} <= {
        *SOURCES
    }
    assert "harness.stages" in modules(Path("harness/run.py"))
    assert "ray.tune" in set(imports(Path("harness/sweep.py")))


@pytest.mark.parametrize(
    ("package", "homes"),
    [
        ("ray", {"harness/cluster.py", "harness/sweep.py"}),
        ("mlflow", {"harness/tracking.py"}),
        ("rich", {"harness/console.py"}),
        ("optuna", {"harness/proposals.py", "harness/optuna_view.py"}),
        ("altair", {"reports/plots.py"}),
        ("jinja2", {"reports/page.py"}),
    ],
)
def test_a_package_is_imported_where_it_belongs(package: str, homes: set[str]) -> None:
    importers = {
        str(path) for path in SOURCES for name in imports(path) if name.split(".")[0] == package
    }
    assert importers == homes


@pytest.mark.parametrize("path", METHODS, ids=str)
def test_methods_import_what_methods_may(path: Path) -> None:
    """No other method, nothing that trains or evaluates for them, and no guarded imports."""
    allowed = {"harness", "harness.space", *NUMERICS}
    assert modules(path) <= allowed
    tree = ast.parse((ROOT / path).read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Try)]


def test_what_stages_compute_with_is_part_of_their_keys() -> None:
    """NUMERICS is closed under imports, save for modules without arithmetic."""
    known = {"harness", "harness.space", *NUMERICS}
    for name in NUMERICS:
        assert modules(Path(*name.split(".")).with_suffix(".py")) <= known


def layer(*names: str) -> set[str]:
    return {n for n in MODULES if any(n == name or n.startswith(name + ".") for name in names)}


TOP = layer("harness.cli", "harness.__main__", "harness.commands", "harness.data_commands",
            "harness.jobs", "harness.reporting", "harness.upkeep", "harness.upkeep_views",
            "harness.verification")  # fmt: skip
SHELL = layer("harness.sweep", "harness.cluster", "harness.execution", "harness.console",
              "harness.tracking", "harness.compose", "harness.dry_run", "harness.interruption",
              "harness.optuna_view", "reports")  # fmt: skip


def test_imports_point_downward() -> None:
    for path in SOURCES:
        imported, name = modules(path), name_of(path)
        if name not in TOP:
            assert not imported & TOP, path
        if name not in TOP | SHELL:
            assert not imported & SHELL, path
        if name.startswith("harness.datasets"):
            lower = ("harness.csv_file", "harness.disk", "harness.space", "harness.training_set")
            assert imported <= layer("harness.datasets", *lower), path
    deep = {
        "disk": set(),
        "space": set(),
        "training_set": set(),
        "losses": set(),
        "gates": set(),
        "groups": set(),
        "selection": {"harness.ledger"},
        "stages": {"harness.disk", "harness.space", "harness.training_set"},
        "run": {"harness.stages", "harness.training_set"},
        "evaluation": {"harness.groups", "harness.training_set"},
    }
    for stem, allowed in deep.items():
        assert modules(Path(f"harness/{stem}.py")) - {"harness"} <= allowed, stem


def test_no_exception_is_swallowed_unnamed() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path}:{node.lineno}"


def loaded_by(*words: str) -> set[str]:
    """The packages that a command of ours has loaded when it ends."""
    code = (
        "import sys\n"
        "from harness.cli import main\n"
        f"sys.argv = ['harness', *{words!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print('loaded:', *sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    said, loaded = result.stdout.rsplit("loaded:", 1)
    assert ("Usage" in said) == ("--help" in words)
    return {*loaded.split()}


@pytest.mark.parametrize("command", [["--help"], ["sweep", "--help"]])
def test_help_loads_nothing_heavy(command: list[str]) -> None:
    loaded = loaded_by(*command)
    assert "typer" in loaded
    heavy = {"torch", "ray", "mlflow", "pandas", "optuna", "scipy", "numpy", "torchvision"}
    assert not heavy & loaded


def test_a_leaderboard_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    """It answers in seconds because it does not."""
    loaded = loaded_by("leaderboard", "--store", str(tmp_path))
    assert "pandas" in loaded
    assert not {"torch", "ray", "mlflow", "torchvision"} & loaded
