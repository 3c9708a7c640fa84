"""Methods by name: the built-in folder and entry points of installed packages.

Listing names imports nothing. The file of a method is named after it, so adding one is adding a
file. An import error in a method's file is raised as it is, never skipped.
"""

from __future__ import annotations

import ast
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import methods
import search_spaces
from harness.method import Method
from harness.space import Range, Settings, one_line, parameters, unknown

GROUP = "harness.methods"


def names() -> list[str]:
    """Names of all methods, sorted, without importing them."""
    return sorted({*_built_in(), *_installed()})


def _built_in() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(methods.__path__)}


def _installed() -> dict[str, EntryPoint]:
    """The methods of other packages; none takes the name of a built-in one."""
    return {e.name: e for e in entry_points(group=GROUP) if e.name not in _built_in()}


def load(name: str, plugin: str = "") -> type[Method]:
    """The class of a method.

    Args:
        name: The method's name.
        plugin: A file outside the package that defines it; empty for a registered method.

    Raises:
        ValueError: No method has that name, or its file defines none.
    """
    if plugin:
        return _method_in(_import_file(Path(plugin)), name)
    if name not in names():
        raise ValueError(unknown("method", name, names()))
    if name in (installed := _installed()):
        return _method_in(import_module(installed[name].module), name)
    return _method_in(import_module(f"methods.{name}"), name)


def methods_in(plugin: Path) -> list[str]:
    """Names of the methods that a file defines.

    Raises:
        ValueError: There is no such file, or no method in it.
    """
    found = [method.name for method in _methods(_import_file(plugin))]
    if not found:
        raise ValueError(f"{plugin} defines no Method; `harness new-method NAME` writes one")
    return found


def _import_file(path: Path) -> ModuleType:
    """Imports a file under a name of its own; its import errors are raised as they are."""
    name = f"harness_plugin_{path.stem}"
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__file__ == str(path):
        return loaded
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"no Python file at {path}; correct --plugin")
    module = module_from_spec(spec)
    try:
        ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # its parser's limits
        raise ValueError(f"{path} is not Python: {one_line(error)}") from None
    sys.modules[name] = module  # where dataclasses and stage keys look for it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # half a module is none
        raise
    return module


def _methods(module: ModuleType) -> Iterator[type[Method]]:
    """The methods that a module defines, without those it imports."""
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Method):
            if value.__module__ == module.__name__ and hasattr(value, "name"):
                yield value


def _method_in(module: ModuleType, name: str) -> type[Method]:
    for method in _methods(module):
        if method.name == name:
            return method
    raise ValueError(f"{module.__name__} defines no Method with name = {name!r}")


def summary(method: type[Method]) -> str:
    """First line of a method's docstring."""
    return (method.__doc__ or "").strip().split("\n")[0]


def listing() -> dict[str, str]:
    """Name -> summary of every method, or where it comes from: other packages are not run."""
    built_in, installed = _built_in(), _installed()
    return {
        name: summary(load(name)) if name in built_in else f"from {installed[name].value}"
        for name in names()
    }


def _space_module(name: str) -> ModuleType | None:
    if name in {module.name for module in pkgutil.iter_modules(search_spaces.__path__)}:
        return import_module(f"search_spaces.{name}")
    return None


def preset_settings(name: str, preset: str, dataset: str, ratio: float) -> Settings:
    """What a preset changes in a method's defaults on a data set; empty without a settings file."""
    module = _space_module(name)
    return dict(module.settings(preset, dataset, ratio)) if module else {}


def search_space(method: type[Method], dataset: str) -> dict[str, Range]:
    """The ranges that a sweep searches by default: those on the fields, overridden per data set."""
    on_fields = {
        p.name: p.search
        for p in parameters(method).values()
        if p.search is not None and not p.on_request
    }
    module = _space_module(method.name)
    overrides: Mapping[str, Range] = module.SPACES.get(dataset, {}) if module else {}
    return on_fields | dict(overrides)
