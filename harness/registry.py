"""Methods by name: the built-in folder and entry points of installed packages.

Listing names imports nothing. The file of a method is named after it, so adding one is adding a
file. An import error in a method's file is raised as it is, never skipped.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType

import methods
import search_spaces
from harness.method import Method
from harness.space import Range, Settings, parameters, unknown

GROUP = "harness.methods"


def names() -> list[str]:
    """Names of all methods, sorted, without importing them."""
    built_in = {module.name for module in pkgutil.iter_modules(methods.__path__)}
    return sorted(built_in | {entry.name for entry in entry_points(group=GROUP)})


def load(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        ValueError: No method has that name, or its file defines none.
    """
    if name not in names():
        raise ValueError(unknown("method", name, names()))
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            return _method_in(import_module(entry.module), name)
    return _method_in(import_module(f"methods.{name}"), name)


def _method_in(module: ModuleType, name: str) -> type[Method]:
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Method) and value is not Method:
            if getattr(value, "name", None) == name:
                return value
    raise ValueError(f"{module.__name__} defines no Method with name = {name!r}")


def summary(method: type[Method]) -> str:
    """First line of a method's docstring."""
    return (method.__doc__ or "").strip().split("\n")[0]


def _space_module(name: str) -> ModuleType | None:
    if name in {module.name for module in pkgutil.iter_modules(search_spaces.__path__)}:
        return import_module(f"search_spaces.{name}")
    return None


def preset_settings(name: str, preset: str, dataset: str, ratio: float) -> Settings:
    """What a preset changes in a method's defaults on a data set; empty without a settings file."""
    module = _space_module(name)
    return dict(module.settings(preset, dataset, ratio)) if module else {}


def search_space(name: str, dataset: str) -> dict[str, Range]:
    """The ranges that a sweep searches by default: those on the fields, overridden per data set."""
    on_fields = {
        p.name: p.search
        for p in parameters(load(name)).values()
        if p.search is not None and not p.on_request
    }
    module = _space_module(name)
    overrides: Mapping[str, Range] = module.SPACES.get(dataset, {}) if module else {}
    return on_fields | dict(overrides)
