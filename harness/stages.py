"""Stages computed once: content-addressed, locked, verified artifacts on disk.

A stage is a module-level function; its key is made of everything its result depends on. Concurrent
trials that want the same stage wait for one of them to compute it. An artifact is complete when its
manifest is there: data first, manifest last, both fsynced, in a folder renamed into place.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib.util
import inspect
import io
import json
import math
import random
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from harness.disk import move_into_place, scratch_folder, seal, unseal, write_durably
from harness.space import one_line
from harness.training_set import TrainingSet

NUMERICS = (
    "harness.committee",
    "harness.disentangled",
    "harness.gates",
    "harness.losses",
    "harness.nets",
    "harness.optimization",
    "harness.pretraining",
    "harness.training_set",
)
"""The harness modules that stages compute with; a change in one of them makes every stage new."""


@dataclass(frozen=True)
class StageResult:
    """What a stage returned, with its identity and its cost.

    Attributes:
        value: Tensors (on the training device), or dicts, lists and tuples of them, or scalars.
        key: Content address of the computation.
        digest: Digest of `value`; what a stage that takes `value` as argument is keyed by.
        seconds: Wall time of the computation, also when it was reused.
        reused: True if it was found rather than computed.
    """

    value: Any
    key: str
    digest: str
    seconds: float
    reused: bool


@dataclass(frozen=True)
class StageKey:
    """Identity of one stage computation.

    Attributes:
        function: Dotted name of the stage function.
        parts: What the key is made of, by name; kept in the manifest to explain a miss.
    """

    function: str
    parts: dict[str, str]

    @property
    def key(self) -> str:
        """Content address of the computation."""
        return _sha256(json.dumps([self.function, self.parts], sort_keys=True))

    @property
    def rng_seed(self) -> int:
        """Seed of the stage's random stream: arguments and seed, but not the source text.

        An edit that leaves the arithmetic alone must not move the numbers.
        """
        drawn = {n: p for n, p in self.parts.items() if n == "seed" or n.startswith("argument")}
        return int(_sha256(json.dumps([self.function, drawn], sort_keys=True))[:15], 16)


def stage_key(
    function: Callable[..., Any], argument_digests: list[str], seed: int, device_type: str
) -> StageKey:
    """The identity of ``function(*arguments)``.

    Raises:
        TypeError: `function` is not a plain module-level function.
    """
    if not inspect.isfunction(function) or "<" in function.__qualname__ or function.__closure__:
        raise TypeError(f"a stage must be a module-level function, but got {function!r}")
    parts = {f"argument {i}": digest for i, digest in enumerate(argument_digests)}
    parts |= {
        "seed": str(seed),
        "device": device_type,
        "torch": torch.__version__,
        "source": source_digest(function.__module__),
    }
    if torch.is_autocast_enabled(device_type):
        parts["autocast"] = str(torch.get_autocast_dtype(device_type))
    return StageKey(f"{function.__module__}.{function.__qualname__}", parts)


def digest(value: Any) -> str:
    """Digest of a stage argument by content.

    Raises:
        TypeError: The value is none of: training set, frozen dataclass, tensor, str, bool, int,
            float, None, or a list, tuple or str-keyed dict of these.
    """
    match value:
        case TrainingSet():
            return value.fingerprint
        case Tensor():
            array = value.detach().cpu().contiguous()
            head = f"{array.dtype} {tuple(array.shape)} "
            return _sha256(head, array.flatten().view(torch.uint8).numpy().data)
        case None | bool() | int() | float() | str():
            return _sha256(f"{type(value).__name__} {value!r}")
        case list() | tuple():
            return _sha256("sequence " + " ".join(map(digest, value)))
        case dict() if all(isinstance(name, str) for name in value):
            return _sha256(
                "dict " + " ".join(f"{n!r}={digest(v)}" for n, v in sorted(value.items()))
            )
    if dataclasses.is_dataclass(value) and value.__dataclass_params__.frozen:  # type: ignore
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return _sha256(f"{type(value).__qualname__} {digest(fields)}")
    raise TypeError(
        f"a stage argument of type {type(value).__name__} has no content digest: pass the training "
        "set, a frozen dataclass, tensors, numbers or strings"
    )


def _sha256(text: str, data: Any = b"") -> str:
    hashed = hashlib.sha256(text.encode())
    hashed.update(data)
    return hashed.hexdigest()


@cache
def source_digest(module: str) -> str:
    """Digest of a stage module's code, of local modules it imports, and of the NUMERICS."""
    seen: dict[str, str] = {}
    queue = [module, *NUMERICS]
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        tree = ast.parse(inspect.getsource(importlib.import_module(name)))
        seen[name] = ast.unparse(_without_docstrings(tree))
        queue += [n for n in _imports(tree, name) if _is_local(n)]
    return _sha256(json.dumps(seen, sort_keys=True))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """Drops docstrings (comments are not in the tree): prose does not change results."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
            and isinstance(body[0].value.value, str)
        ):
            node.body = body[1:] or [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def _imports(tree: ast.Module, module: str) -> list[str]:
    package = sys.modules[module].__package__
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            if node.level:
                origin = importlib.util.resolve_name(origin, package)
            names += [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
    return names


def _is_local(name: str) -> bool:
    """Whether `name` is a user's own module: loaded, and neither ours nor an installed package."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None or name.split(".")[0] == "harness":
        return False
    installed = [sysconfig.get_path(p) for p in ("stdlib", "platstdlib", "purelib", "platlib")]
    return not any(Path(file).is_relative_to(p) for p in installed)


class StageStore:
    """A folder of stage artifacts, safe under concurrent processes and sudden death."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def holds(self, key: StageKey) -> bool:
        """Whether the artifact is there (not yet verified)."""
        return (self._folder(key) / "manifest.json").exists()

    def stored_digest(self, key: StageKey) -> str | None:
        """Digest of the stored result, by which stages that take it are keyed; None without one."""
        try:
            return str(unseal((self._folder(key) / "manifest.json").read_text())["digest"])
        except (OSError, ValueError, KeyError):
            return None

    def fetch(self, key: StageKey, compute: Callable[[], Any], device: torch.device) -> StageResult:
        """Returns the stored result, or computes and stores it while others wait."""
        found = self._read(key, device)
        if found is not None:
            return found
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder(key).with_suffix(".lock")):
            found = self._read(key, device)  # somebody else may have computed it meanwhile
            return found if found is not None else self._write(key, compute, device)

    def _folder(self, key: StageKey) -> Path:
        return self.root / f"{key.function.rsplit('.', 1)[-1]}-{key.key[:24]}"

    def _read(self, key: StageKey, device: torch.device) -> StageResult | None:
        folder = self._folder(key)
        if not self.holds(key):
            return None
        try:
            manifest = unseal((folder / "manifest.json").read_text())
            data = (folder / "value.pt").read_bytes()
            if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
                raise ValueError("its bytes differ from its manifest")
            value = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
            digest, seconds = str(manifest["digest"]), float(manifest["seconds"])
            return StageResult(value, key.key, digest, seconds, reused=True)
        except Exception as error:  # torch.load raises whatever it meets in a damaged file
            said = one_line(error)
            warnings.warn(f"stage artifact {folder} is computed again: {said}", stacklevel=3)
            return None

    def _write(
        self, key: StageKey, compute: Callable[[], Any], device: torch.device
    ) -> StageResult:
        result = compute_stage(key, compute, device)
        buffer = io.BytesIO()
        torch.save(_portable(result.value, torch.device("cpu"), key.function), buffer)
        manifest = {
            "function": key.function,
            "key": key.key,
            "parts": key.parts,
            "digest": result.digest,
            "sha256": hashlib.sha256(buffer.getbuffer()).hexdigest(),
            "seconds": result.seconds,
        }
        with scratch_folder(self._folder(key)) as partial:  # the lock is held
            write_durably(partial / "value.pt", buffer.getbuffer())
            write_durably(partial / "manifest.json", seal(manifest, indent=1).encode())
            move_into_place(partial, self._folder(key))
        return result


def compute_stage(key: StageKey, compute: Callable[[], Any], device: torch.device) -> StageResult:
    """Runs a stage in its own random stream; a reused result is bit-identical to this one."""
    started = time.perf_counter()
    with _random_stream(key.rng_seed):
        value = compute()
    seconds = time.perf_counter() - started
    value = _portable(value, device, key.function)
    return StageResult(value, key.key, digest(value), seconds, reused=False)


@contextmanager
def _random_stream(seed: int) -> Iterator[None]:
    """Seeds all generators, and gives them back as they were found."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _portable(value: Any, device: torch.device, stage: str, path: str = "value") -> Any:
    """Detached, contiguous copies on `device`: what comes back equals what was computed.

    Raises:
        FloatingPointError: Something in it is NaN or infinite.
        TypeError: Something in it could not be read back without running code.
    """
    match value:
        case Tensor():
            if value.is_floating_point() and not value.isfinite().all():
                raise FloatingPointError(f"stage {stage} returned non-finite numbers in {path!r}")
            # A copy, for a result read from disk shares no memory with anything either.
            return value.detach().to(device, copy=True, memory_format=torch.contiguous_format)
        case float() if not math.isfinite(value):
            raise FloatingPointError(f"stage {stage} returned {value} in {path!r}")
        case None:
            return None
        case _ if type(value) in (bool, int, float, str):  # not numpy's subclasses of them
            return value
        case dict() if all(isinstance(name, str) for name in value):
            return {n: _portable(v, device, stage, n) for n, v in value.items()}
        case _ if type(value) in (list, tuple):
            return type(value)(
                _portable(v, device, stage, f"{path}[{i}]") for i, v in enumerate(value)
            )
    raise TypeError(f"stage {stage} must return tensors and plain data, not {type(value).__name__}")
