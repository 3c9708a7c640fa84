"""Hyperparameters as dataclass fields: default, range and documentation in one place.

A method is a frozen dataclass whose fields are scalars made with :func:`tunable` or further frozen
dataclasses. Nesting gives the dotted names (``prune.sparsity_weight``) that the command line,
Optuna, MLflow and the ledger all use.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, get_type_hints

from pydantic import TypeAdapter, ValidationError

Scalar = bool | int | float | str
Settings = dict[str, Scalar]
"""Every hyperparameter of a method by dotted name."""


@dataclass(frozen=True)
class Uniform:
    """A real number in [low, high]."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_bounds(self.low, self.high)

    def grid(self) -> tuple[Scalar, ...]:
        """The two ends and the middle."""
        return (self.low, (self.low + self.high) / 2, self.high)

    def __str__(self) -> str:
        return f"{self.low:g} … {self.high:g}"


@dataclass(frozen=True)
class Log:
    """A positive real number in [low, high], searched on a logarithmic scale."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_bounds(self.low, self.high)
        if self.low <= 0:
            raise ValueError(f"a logarithmic range must start above 0, but low={self.low}")

    def grid(self) -> tuple[Scalar, ...]:
        """The two ends and their geometric mean."""
        return (self.low, math.sqrt(self.low * self.high), self.high)

    def __str__(self) -> str:
        return f"{self.low:g} … {self.high:g} (log)"


@dataclass(frozen=True)
class Integer:
    """A whole number in [low, high]."""

    low: int
    high: int

    def __post_init__(self) -> None:
        _check_bounds(self.low, self.high)

    def grid(self) -> tuple[Scalar, ...]:
        """The two ends and the middle."""
        return tuple(sorted({self.low, (self.low + self.high) // 2, self.high}))

    def __str__(self) -> str:
        return f"{self.low} … {self.high} (whole)"


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a choice needs at least one value")
        for value in self.values:
            _check_finite(value)
            if sum(type(each) is type(value) and each == value for each in self.values) > 1:
                raise ValueError(f"a choice needs different values, but has {value!r} twice")

    def grid(self) -> tuple[Scalar, ...]:
        """The values themselves."""
        return self.values

    def __str__(self) -> str:
        return " | ".join(map(str, self.values))


_LARGEST = 2.0**53
"""Up to here every whole number is a float, which Optuna keeps it as."""

Range = Uniform | Log | Integer | Choice


def _check_bounds(low: float, high: float) -> None:
    if not -_LARGEST <= low < high <= _LARGEST:
        raise ValueError(f"a range must have finite bounds with low < high, but {low=}, {high=}")


def _check_finite(value: Scalar) -> None:
    """Refuses numbers that no file of a store can hold exactly."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError("a whole number must lie below 2^63")


class Parameter(NamedTuple):
    """One hyperparameter of a method, as `harness methods NAME` shows it."""

    name: str
    default: Scalar
    type: Any
    doc: str
    search: Range | None
    on_request: bool


def tunable(default: Any, doc: str, search: Range | None = None, on_request: bool = False) -> Any:
    """A hyperparameter: a dataclass field that carries its documentation and search range.

    Args:
        default: Value used when nothing else is said.
        doc: One sentence for `harness methods NAME`.
        search: Range a sweep draws from; None if it makes no sense to search it.
        on_request: Searched only when named with ``--search``. For fields upstream of a shared
            stage, where each new value costs every trial a recomputation.
    """
    return dataclasses.field(
        default=default, metadata={"doc": doc, "search": search, "on_request": on_request}
    )


def parameters(cls: type, prefix: str = "") -> dict[str, Parameter]:
    """All hyperparameters of a method class by dotted name, in the order of their definition."""
    found: dict[str, Parameter] = {}
    hints = get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        name = prefix + field.name
        if dataclasses.is_dataclass(field.default):
            found |= parameters(type(field.default), name + ".")
            for key, value in flatten(field.default, name + ".").items():  # Training(beta2=0.99)
                found[key] = found[key]._replace(default=value)
            continue
        meta = field.metadata
        default: Any = field.default
        found[name] = Parameter(
            name,
            default,
            hints[field.name],
            meta.get("doc", ""),
            meta.get("search"),
            meta.get("on_request", False),
        )
    return found


def flatten(config: Any, prefix: str = "") -> Settings:
    """Turns a method instance into dotted settings; the inverse of :func:`build`."""
    flat: Settings = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = value
    return flat


def build(cls: type[Any], overrides: Mapping[str, object]) -> Any:
    """Makes a method from its defaults and dotted overrides, validated.

    Raises:
        ValueError: A name is unknown or a value does not fit its field; one line, all faults.
    """
    known = parameters(cls)
    for name in overrides:
        if name not in known:
            raise ValueError(unknown("hyperparameter", name, known))
    nested: dict[str, Any] = {}
    for name, value in ({n: p.default for n, p in known.items()} | dict(overrides)).items():
        *path, leaf = name.split(".")
        level = nested
        for part in path:
            level = level.setdefault(part, {})
        level[leaf] = value
    try:
        built = _adapter(cls).validate_python(nested)  # type: ignore[arg-type]  # a class hashes
    except ValidationError as error:
        faults = (
            f"{'.'.join(str(p) for p in e['loc'])}={e['input']!r:.80}: {e['msg']}"
            for e in error.errors(include_url=False)
        )
        raise ValueError("; ".join(faults)) from None
    for name, value in flatten(built).items():
        try:
            _check_finite(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return built


@cache
def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(cls)  # takes milliseconds to make


def unknown(kind: str, name: str, available: Iterable[str]) -> str:
    """The message for a name that is none of `available`, with the nearest one suggested."""
    names = sorted(available)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    if near and len(names) > 20:  # the whole list would bury the hint
        return f"unknown {kind} {name!r}.{hint}"
    return f"unknown {kind} {name!r}.{hint} Available: {', '.join(names)}."


def one_line(error: BaseException) -> str:
    """What an error says, or its type if it says nothing, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def slug(name: str) -> str:
    """A data set's name as part of a file name; one that is a path keeps its end and a digest."""
    plain = re.sub(r"[^\w.]+", "-", name).strip("-")
    if "/" not in name:
        return plain
    return f"{plain[-40:].strip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def parse_range(text: str) -> Range:
    """Reads ``low:high``, ``log:low:high``, ``int:low:high`` or ``a,b,c`` from the command line."""
    try:
        match text.split(":"):
            case ["log", low, high]:
                return Log(float(low), float(high))
            case ["int", low, high]:
                return Integer(int(low), int(high))
            case [low, high]:
                return Uniform(float(low), float(high))
            case [values] if values:
                return Choice(tuple(_scalar(v) for v in values.split(",")))
    except ValueError as error:
        raise ValueError(f"cannot read the range {text!r}: {error}") from None
    raise ValueError(
        f"cannot read the range {text!r}: write low:high, log:low:high, int:low:high or a,b,c"
    )


def _scalar(text: str) -> Scalar:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def range_to_json(search: Range) -> dict[str, Any]:
    """A range as plain data, the inverse of :func:`range_from_json`."""
    data = dataclasses.asdict(search)
    if isinstance(search, Uniform | Log):  # 0 and 0.0 are one range, in one spelling
        data = {name: float(value) for name, value in data.items()}
    return {"kind": type(search).__name__.lower(), **data}


def range_from_json(data: Mapping[str, Any]) -> Range:
    """Reads what :func:`range_to_json` or a space file holds.

    Raises:
        ValueError: The kind is unknown or the bounds do not fit.
    """
    kinds: dict[str, type[Range]] = {k.__name__.lower(): k for k in (Uniform, Log, Integer, Choice)}
    rest = dict(data)
    kind = str(rest.pop("kind", "choice" if "values" in rest else "uniform"))
    if kind not in kinds:
        raise ValueError(unknown("kind of range", kind, kinds))
    fields = [field.name for field in dataclasses.fields(kinds[kind])]
    for name in rest:
        if name not in fields:
            raise ValueError(unknown(f"part of a {kind} range", name, fields))
    # Pydantic would take "1" and true for numbers, and a text for a list of letters.
    if not isinstance(rest.get("values", []), list | tuple) or any(
        type(rest[bound]) not in (int, float) for bound in ("low", "high") if bound in rest
    ):
        raise ValueError(
            f"cannot read the range {dict(data)!r}: low and high must be numbers, values a list"
        )
    try:
        if "values" in rest:
            rest["values"] = tuple(rest["values"])
        return TypeAdapter(kinds[kind]).validate_python(rest)
    except (ValidationError, TypeError) as error:
        raise ValueError(f"cannot read the range {dict(data)!r}: {one_line(error)}") from None
