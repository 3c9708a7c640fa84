"""From what was typed to studies: settings, search space and everything that names a study."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from harness import datasets, registry
from harness.datasets import Recipe
from harness.method import Method
from harness.presets import Preset, choose_preset
from harness.proposals import SEARCHERS
from harness.selection import DEFAULT_RULE, RULES
from harness.space import (
    Parameter,
    Range,
    Settings,
    build,
    flatten,
    one_line,
    parameters,
    parse_range,
    range_from_json,
    unknown,
)
from harness.stages import source_digest
from harness.study import CONFIRM_SEED, Study

SCHEDULERS = ("none", "asha")


@dataclass(frozen=True)
class Choice:
    """What is to be trained, as typed on the command line."""

    methods: list[str]
    datasets: list[str]
    ratios: list[float]  # of data sets that leave it open; empty for the usual one
    plugins: list[Path] = field(default_factory=list)
    preset: str | None = None
    device: str | None = None
    set: list[str] = field(default_factory=list)
    fix: list[str] = field(default_factory=list)
    search: list[str] = field(default_factory=list)
    space: Path | None = None
    searcher: str = "tpe"
    scheduler: str = "none"
    select: str = DEFAULT_RULE
    search_seeds: int = 1
    data_seed: int = 0
    amp: bool = False


@dataclass(frozen=True)
class Composition:
    """The studies of a command and the conditions they share."""

    studies: list[Study]
    preset: Preset
    reason: str
    device: str


def compose(choice: Choice, searched: bool = True) -> Composition:
    """Validates a choice and turns it into studies, one per data set, ratio and method.

    Args:
        choice: What was typed.
        searched: False for a single run: the search space is empty.

    Raises:
        ValueError: Something typed does not exist or does not fit; says what, and what would.
    """
    device = _device(choice.device)
    preset, reason = choose_preset(choice.preset, device)
    for kind, name, known in (
        ("searcher", choice.searcher, SEARCHERS),
        ("scheduler", choice.scheduler, SCHEDULERS),
        ("selection rule", choice.select, RULES),
    ):
        if name not in known:
            raise ValueError(unknown(kind, name, known))
    if choice.search_seeds > CONFIRM_SEED:  # the winner is confirmed on seeds never searched with
        raise ValueError(f"--search-seeds must be at most {CONFIRM_SEED}: {choice.search_seeds}")
    if choice.scheduler == "asha" and choice.search_seeds > 1:
        raise ValueError(
            f"--scheduler asha compares single runs, but --search-seeds {choice.search_seeds}: "
            "use one search seed"
        )
    files = {n: str(f.resolve()) for f in choice.plugins for n in registry.methods_in(f.resolve())}
    names = dict.fromkeys(choice.methods)
    methods = {name: registry.load(name, files.get(name, "")) for name in names}
    typed = _Typed(choice, [parameters(method) for method in methods.values()])
    data = [
        (recipe, ratio)
        for recipe in {name: datasets.get(name) for name in choice.datasets}.values()
        for ratio in recipe.chosen_ratios(choice.ratios)
    ]
    studies = []
    for (recipe, ratio), (name, method) in itertools.product(data, methods.items()):
        base = _base_settings(method, name, preset.name, recipe, ratio, typed.values)
        default = registry.search_space(method, recipe.settings_name)
        space = typed.space(method, default) if searched else {}
        _check_space(method, base, space)
        studies.append(
            Study(
                method=name,
                plugin=files.get(name, ""),
                dataset=recipe.name,
                ratio=ratio,
                preset=preset.name,
                data_seed=choice.data_seed,
                device=device,
                searcher=choice.searcher,
                scheduler=choice.scheduler,
                select=_rule(choice.select, recipe, searched),
                search_seeds=tuple(range(choice.search_seeds)),
                base=base,
                space=space,
                code=f"{source_digest(method.__module__)} data {recipe.version}",
                aligned=recipe.aligned_table().tolist(),
                amp=choice.amp,
            )
        )
    return Composition(studies, preset, reason, device)


def _device(name: str | None) -> str:
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise ValueError(unknown("device", name, ("cpu", "cuda")))
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda, but torch finds no CUDA device: use --device cpu")
    return name


def _base_settings(
    method: type[Method],
    name: str,
    preset: str,
    recipe: Recipe,
    ratio: float,
    typed: Mapping[str, str],
) -> Settings:
    """Defaults, then the preset's backbone and schedule, then what was typed."""
    known = parameters(method)
    arch, weights = recipe.backbones[preset]
    backbone: Settings = {"backbone.arch": arch, "backbone.weights": weights}
    settings: dict[str, object] = {n: v for n, v in backbone.items() if n in known}
    settings |= registry.preset_settings(name, preset, recipe.settings_name, ratio)
    settings |= {n: v for n, v in typed.items() if n in known}
    return flatten(build(method, settings))


def _rule(name: str, recipe: Recipe, searched: bool) -> str:
    """The selection rule, or for a run in which nothing is selected any that can be computed."""
    # Without an unbiased validation split there are no conflicting images to validate on at all.
    labelled = "valid_unbiased" in recipe.validation
    usable = [rule.name for rule in RULES.values() if labelled or not rule.needs_bias_labels]
    if name in usable:
        return name
    if searched:
        raise ValueError(
            f"--select {name} needs conflicting validation images, which {recipe.name} has not: "
            f"use one of {', '.join(usable)}"
        )
    return usable[0]


def _check_space(method: type[Method], base: Settings, space: Mapping[str, Range]) -> None:
    """Refuses a range that holds values the method does not take, before anything is trained."""
    for name, search in space.items():
        for value in search.grid():
            build(method, base | {name: value})


class _Typed:
    """The hyperparameters and ranges typed for all methods of a command.

    A name applies to every method that has it; one that no method has is an error.
    """

    def __init__(self, choice: Choice, known: list[dict[str, Parameter]]) -> None:
        self.known: set[str] = set().union(*known)
        self.values = dict(self._pairs("--set", choice.set))
        self.fixed = set(self._checked(choice.fix)) | set(self.values)
        self.ranges = dict(self._searches(choice.search))
        self.file = _read_space(choice.space) if choice.space else None
        self._checked(self.file or ())

    def space(self, method: type[Method], default: dict[str, Range]) -> dict[str, Range]:
        """The search space of one method."""
        known = parameters(method)
        space = dict(default if self.file is None else self.file)
        for name, typed in self.ranges.items():
            if name not in known:
                continue
            search = typed or known[name].search
            if search is None:
                raise ValueError(f"{name} has no range of its own: write --search {name}=low:high")
            space[name] = search
        return {n: r for n, r in space.items() if n in known and n not in self.fixed}

    def _pairs(self, option: str, texts: list[str]) -> Iterator[tuple[str, str]]:
        for text in texts:
            name, separator, value = text.partition("=")
            if not separator:
                raise ValueError(f"{option} {text!r}: write {option} NAME=VALUE")
            yield self._checked([name])[0], value

    def _searches(self, texts: list[str]) -> Iterator[tuple[str, Range | None]]:
        for text in texts:
            name, separator, search = text.partition("=")
            yield self._checked([name])[0], parse_range(search) if separator else None

    def _checked(self, names: Iterable[str]) -> list[str]:
        for name in names:
            if name not in self.known:
                raise ValueError(unknown("hyperparameter", name, self.known))
        return list(names)


def _read_space(path: Path) -> dict[str, Range]:
    """Ranges by dotted name from a TOML file: ``lr = {kind = "log", low = 1e-4, high = 1e-1}``."""
    try:
        with path.open("rb") as file:
            data = tomllib.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot read the space file {path}: {one_line(error)}") from None
    try:
        ranges: dict[str, Range] = {}
        for name, search in _ranges_in(data, ""):
            if name in ranges:  # "a.b" = {…} and [a] b = {…}
                raise ValueError(f"{name} is there twice")
            ranges[name] = search
        return ranges
    except ValueError as error:
        raise ValueError(f"space file {path}: {error}") from None


def _ranges_in(data: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Range]]:
    for name, value in data.items():
        if not isinstance(value, dict):
            raise ValueError(
                f"{prefix}{name} = {value!r} is no range; write {{low = …, high = …}} or "
                "{values = […]}"
            )
        if value.keys() & {"low", "high", "values", "kind"}:
            yield prefix + name, range_from_json(value)
        else:
            yield from _ranges_in(value, f"{prefix}{name}.")
