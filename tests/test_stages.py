"""Stages: what a key is made of, and a store that survives corruption, races and sudden death."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness import stages
from harness.optimization import Descent, Training, state
from harness.run import Run
from harness.stages import StageStore, digest, source_digest, stage_key
from harness.training_set import TrainingSet
from tests.conftest import make_dataset

CPU = torch.device("cpu")
CALLS: list[str] = []


@dataclass(frozen=True)
class Config:
    scale: float = 1.0
    name: str = "a"


@dataclass
class Thawed:
    scale: float = 1.0


@pytest.fixture(autouse=True)
def _no_calls_yet() -> Iterator[None]:
    CALLS.clear()
    yield


# Stage functions


def draw(train: TrainingSet, config: Config) -> dict[str, Tensor]:
    """Reads all three random generators."""
    CALLS.append("draw")
    batch = next(train.shuffled(16, 1))
    noise = torch.randn(3) * config.scale + random.random() + float(np.random.rand())
    return {"noise": noise, "images": batch.images, "half": torch.randn(4).bfloat16()}


def everything(config: Config) -> dict[str, object]:
    return {
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "flags": torch.tensor([True, False]),
        "whole": torch.arange(5),
        "strided": torch.arange(12.0).view(3, 4).t(),
        "plain": [1, 2.5, True, None, "text", (1, "two")],
        "nested": {"inner": torch.ones(2, requires_grad=True)},
    }


def ones(tag: str) -> Tensor:
    CALLS.append(tag)
    return torch.ones(4)


def total(weights: dict[str, Tensor]) -> Tensor:
    CALLS.append("total")
    return torch.stack([w.sum() for w in weights.values()])


def linear_state() -> dict[str, Tensor]:
    return state(nn.Linear(3, 1))


def identity(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return weights


def first(weights: Tensor) -> Tensor:
    return weights[:1]


def doubles_in_place(weights: Tensor) -> Tensor:
    return weights.mul_(2)


def in_inference_mode() -> Tensor:
    with torch.inference_mode():
        return torch.ones(2) * 2


def not_finite(kind: str) -> object:
    CALLS.append(kind)
    match kind:
        case "nan":
            return {"loss": torch.tensor([1.0, torch.nan])}
        case "inf":
            return [torch.tensor(-torch.inf)]
        case _:
            return {"loss": float("nan")}


class Pair(NamedTuple):
    left: Tensor


def unreadable(kind: str) -> object:
    match kind:
        case "module":
            return nn.Linear(1, 1)
        case "numpy":
            return {"mean": np.float64(1.0)}
        case "named tuple":
            return Pair(torch.ones(1))
        case _:
            return {1: torch.ones(1)}


def fails_once(folder: str) -> Tensor:
    path = Path(folder) / "failed"
    if not path.exists():
        path.touch()
        raise RuntimeError("the first time")
    return torch.ones(1)


# Keys


def write_module(folder: Path, name: str, text: str) -> ModuleType:
    path = folder / f"{name}.py"
    path.write_text(text)
    sys.modules.pop(name, None)
    importlib.invalidate_caches()
    source_digest.cache_clear()
    return importlib.import_module(name)


BODY = '''"""A stage."""
import {helper}

SCALE = 2


def work(x):
    """Doubles."""
    return SCALE * x + {helper}.OFFSET  # a sum
'''


@pytest.fixture
def module_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("staged_"):
            del sys.modules[name]
    source_digest.cache_clear()


def key_of(module: ModuleType) -> str:
    return stage_key(module.work, [digest(1)], 0, "cpu").key


def test_key_changes_with_code_but_not_with_prose(module_folder: Path) -> None:
    write_module(module_folder, "staged_helper", "OFFSET = 1\n")
    body = BODY.format(helper="staged_helper")
    key = key_of(write_module(module_folder, "staged_work", body))

    prose = body.replace('"""Doubles."""\n', '"""Twice.\n\n    And on."""\n').replace(
        "# a sum", "# the sum, as in the paper"
    )
    assert prose != body
    assert key_of(write_module(module_folder, "staged_work", prose)) == key
    no_docstring = body.replace('    """Doubles."""\n', "").replace('"""A stage."""\n', "")
    assert key_of(write_module(module_folder, "staged_work", no_docstring)) == key

    for edit in (("SCALE * x", "SCALE - x"), ("SCALE = 2", "SCALE = 3")):
        assert key_of(write_module(module_folder, "staged_work", body.replace(*edit))) != key
    assert key_of(write_module(module_folder, "staged_work", body)) == key


def test_key_changes_with_the_modules_that_a_stage_imports(module_folder: Path) -> None:
    write_module(module_folder, "staged_helper", "OFFSET = 1\n")
    body = BODY.format(helper="staged_helper")
    key = key_of(write_module(module_folder, "staged_work", body))
    write_module(module_folder, "staged_helper", "OFFSET = 2\n")
    assert key_of(write_module(module_folder, "staged_work", body)) != key


def test_key_follows_relative_imports(module_folder: Path) -> None:
    package = module_folder / "staged_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "work.py").write_text("from .helper import OFFSET\ndef work(x): return x + OFFSET\n")
    keys = []
    for offset in (1, 22):
        (package / "helper.py").write_text(f"OFFSET = {offset}\n")
        for name in ("staged_package.helper", "staged_package.work", "staged_package"):
            sys.modules.pop(name, None)
        source_digest.cache_clear()
        keys.append(key_of(importlib.import_module("staged_package.work")))
    assert keys[0] != keys[1]


def test_key_changes_with_the_harness_modules_stages_compute_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = stage_key(ones, [], 0, "cpu").key
    changed = importlib.import_module("harness.losses")
    real = stages.inspect.getsource

    def edited(module: ModuleType) -> str:
        return real(module) + ("\nEXTRA = 1\n" if module is changed else "")

    monkeypatch.setattr(stages.inspect, "getsource", edited)
    source_digest.cache_clear()
    assert stage_key(ones, [], 0, "cpu").key != key
    monkeypatch.undo()
    source_digest.cache_clear()
    assert stage_key(ones, [], 0, "cpu").key == key


def test_key_changes_with_function_arguments_seed_and_device() -> None:
    def key(function: Callable[..., object] = ones, arguments: tuple[object, ...] = (1, 2),
            seed: int = 0, device: str = "cpu") -> str:  # fmt: skip
        return stage_key(function, [digest(a) for a in arguments], seed, device).key

    keys = [
        key(),
        key(function=total),
        key(arguments=(1, 3)),
        key(arguments=(2, 1)),
        key(arguments=(1,)),
        key(arguments=((1, 2),)),
        key(seed=1),
        key(device="cuda"),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]


def test_random_stream_depends_on_seed_and_arguments_but_not_on_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = stage_key(ones, [digest(1)], 0, "cpu")
    assert one.rng_seed != stage_key(ones, [digest(2)], 0, "cpu").rng_seed
    assert one.rng_seed != stage_key(ones, [digest(1)], 1, "cpu").rng_seed
    assert one.rng_seed != stage_key(total, [digest(1)], 0, "cpu").rng_seed
    monkeypatch.setattr(stages, "source_digest", lambda module: "edited")
    edited = stage_key(ones, [digest(1)], 0, "cpu")
    assert edited.key != one.key
    assert edited.rng_seed == one.rng_seed


@pytest.mark.parametrize(
    "other",
    [
        Config(2.0),
        Config(name="b"),
        Config(True),
        [1.0, "a"],
        {"scale": 1.0, "name": "a"},
    ],
)
def test_digest_tells_dataclasses_apart(other: object) -> None:
    assert digest(other) != digest(Config())
    assert digest(Config(1.0, "a")) == digest(Config())


def test_digest_tells_values_apart() -> None:
    values: list[object] = [
        None, True, 1, 1.0, "1", "None", 0.1 + 0.2, 0.3, [], {}, [1], [[1]], [1, 1], {"1": 1},
        torch.tensor(1), torch.tensor(1.0), torch.tensor([1.0]), torch.tensor([[1.0]]),
        torch.tensor(1.0, dtype=torch.float64), torch.tensor(True), torch.tensor([1.0, 0.0]),
        torch.tensor([0.0, 1.0]), torch.tensor(-0.0), torch.tensor(0.0), torch.empty(0),
        torch.empty(0, 2), torch.tensor(1.0, dtype=torch.bfloat16),
    ]  # fmt: skip
    assert len({digest(value) for value in values}) == len(values)


def test_digest_is_of_content_and_not_of_memory_layout() -> None:
    square = torch.arange(6.0).view(2, 3)
    assert digest(square.t().contiguous().t()) == digest(square)
    assert digest(square.clone().requires_grad_()) == digest(square)


def test_digest_of_a_training_set_is_its_fingerprint(train: TrainingSet) -> None:
    assert digest(train) == train.fingerprint


@pytest.mark.parametrize(
    "value", [Thawed(), {1: 2}, {1, 2}, b"x", nn.Linear(1, 1), np.ones(2), CPU]
)
def test_digest_refuses_what_has_no_content_digest(value: object) -> None:
    with pytest.raises(TypeError, match="has no content digest"):
        digest(value)
    with pytest.raises(TypeError, match="has no content digest"):
        digest([value])


class Holder:
    def method(self) -> Tensor:
        return torch.ones(1)


def test_only_module_level_functions_are_stages(make_run: Callable[..., Run]) -> None:
    hidden = 2.0

    def closure() -> Tensor:
        return torch.ones(1) * hidden

    def nested() -> Tensor:
        return torch.ones(1)

    for function in (closure, nested, lambda: torch.ones(1), Holder().method, Holder, torch.ones):
        with pytest.raises(TypeError, match="a stage must be a module-level function"):
            make_run().stage(function)


# Results


def assert_same(left: object, right: object) -> None:
    assert type(left) is type(right)
    if isinstance(left, Tensor):
        assert left.dtype == right.dtype and left.shape == right.shape
        assert left.stride() == right.stride() and left.requires_grad == right.requires_grad
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for name in left:
            assert_same(left[name], right[name])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    else:
        assert left == right


def test_hit_equals_miss(make_run: Callable[..., Run], tmp_path: Path) -> None:
    miss, hit = make_run(tmp_path), make_run(tmp_path)
    computed, read = miss.stage(everything, Config()), hit.stage(everything, Config())
    assert (miss.stages[0].reused, hit.stages[0].reused) == (False, True)
    assert miss.stages[0].key == hit.stages[0].key
    assert miss.stages[0].seconds == hit.stages[0].seconds
    assert digest(computed) == digest(read)
    assert_same(computed, read)
    assert_same(make_run().stage(everything, Config()), read)


def test_rest_of_a_trial_is_the_same_with_hit_miss_and_no_store(
    make_run: Callable[..., Run], train: TrainingSet, tmp_path: Path
) -> None:
    def trial(folder: Path | None) -> list[object]:
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)
        np.random.randn()  # leaves half of a pair of normal variates behind
        run = make_run(folder)
        result: list[object] = [run.stage(draw, train, Config())]
        result += [torch.rand(3), random.random(), float(np.random.randn()), int(train.labels[0])]
        result += [list(next(train.shuffled(16, 1)))]
        result += [run.stage(total, result[0])]
        return result

    alone, miss = trial(None), trial(tmp_path)
    assert CALLS == ["draw", "total"] * 2
    hit = trial(tmp_path)
    assert CALLS == ["draw", "total"] * 2
    assert_same(alone, miss)
    assert_same(miss, hit)


def test_a_stage_draws_from_its_own_stream(
    make_run: Callable[..., Run], train: TrainingSet
) -> None:
    def drawn(seed: int, around: int) -> dict[str, Tensor]:
        for seed_all in (torch.manual_seed, np.random.seed, random.seed):
            seed_all(around)
        result: dict[str, Tensor] = make_run(seed=seed).stage(draw, train, Config())
        return result

    one, same, other = drawn(0, around=1), drawn(0, around=2), drawn(1, around=1)
    assert_same(one, same)
    assert not torch.equal(one["images"], other["images"])


@pytest.mark.parametrize("stored", [True, False])
def test_results_share_no_memory_with_arguments(
    make_run: Callable[..., Run], tmp_path: Path, stored: bool
) -> None:
    run = make_run(tmp_path if stored else None)
    whole = torch.zeros(1000)
    part = run.stage(first, whole)
    whole += 1
    assert part.item() == 0
    for artifact in tmp_path.glob("first-*/value.pt"):
        assert artifact.stat().st_size < 3000  # the slice, not the storage it is a slice of


def test_results_made_in_inference_mode_can_be_trained_on(make_run: Callable[..., Run]) -> None:
    result = make_run().stage(in_inference_mode)
    result.requires_grad_().sum().backward()
    assert torch.equal(result.grad, torch.ones(2))


def optimize_in_place(weights: dict[str, Tensor]) -> None:
    """The fused optimizers do not raise the version counter of a tensor that aliases theirs."""
    net = nn.Linear(3, 1)
    net.load_state_dict(weights, assign=True)
    descent = Descent(net.parameters(), Training(lr=0.1))
    descent.step(net(torch.ones(1, 3)).sum())


def replace(weights: dict[str, Tensor]) -> None:
    weights["bias"] = torch.full((1,), 9.0)


def multiply(weights: dict[str, Tensor]) -> None:
    weights["weight"].mul_(2)


def through_data(weights: dict[str, Tensor]) -> None:
    weights["weight"].data.mul_(2)


def through_numpy(weights: dict[str, Tensor]) -> None:
    weights["weight"].numpy()[0, 0] = 7


@pytest.mark.parametrize(
    "modify", [optimize_in_place, replace, multiply, through_data, through_numpy]
)
def test_a_modified_result_is_another_argument(
    make_run: Callable[..., Run], tmp_path: Path, modify: Callable[[dict[str, Tensor]], None]
) -> None:
    run = make_run(tmp_path)
    weights = run.stage(linear_state)
    run.stage(total, weights)
    before = run.stage(total, weights)
    assert CALLS == ["total"]
    modify(weights)
    after = run.stage(total, weights)
    assert CALLS == ["total"] * 2
    assert not torch.equal(before, after)
    assert_same(after, total(weights))


@pytest.mark.parametrize("stored", [True, False])
def test_a_stage_that_modifies_its_argument_is_refused(
    make_run: Callable[..., Run], tmp_path: Path, stored: bool
) -> None:
    run = make_run(tmp_path if stored else None)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"doubles_in_place modified its argument 0 in place"):
            run.stage(doubles_in_place, torch.ones(2))


@pytest.mark.parametrize("kind", ["nan", "inf", "plain nan"])
def test_non_finite_results_raise_and_are_not_kept(
    make_run: Callable[..., Run], tmp_path: Path, kind: str
) -> None:
    for attempt in (1, 2):
        with pytest.raises(FloatingPointError, match="not_finite returned"):
            make_run(tmp_path).stage(not_finite, kind)
        assert len(CALLS) == attempt
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


@pytest.mark.parametrize("kind", ["module", "numpy", "named tuple", "numbered"])
def test_results_that_could_not_be_read_back_raise(
    make_run: Callable[..., Run], tmp_path: Path, kind: str
) -> None:
    for run in (make_run(tmp_path), make_run(tmp_path), make_run()):
        with pytest.raises(TypeError, match="must return tensors and plain data"):
            run.stage(unreadable, kind)


def test_exceptions_are_not_kept(make_run: Callable[..., Run], tmp_path: Path) -> None:
    folder = tmp_path / "stages"
    with pytest.raises(RuntimeError, match="the first time"):
        make_run(folder).stage(fails_once, str(tmp_path))
    assert make_run(folder).stage(fails_once, str(tmp_path)).item() == 1


# Artifacts on disk


def artifact(folder: Path, name: str = "ones") -> Path:
    (found,) = (p for p in folder.glob(f"{name}-*") if p.is_dir())
    return found


def flip_a_byte(folder: Path) -> None:
    data = bytearray((folder / "value.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "value.pt").write_bytes(data)


def truncate(folder: Path) -> None:
    data = (folder / "value.pt").read_bytes()
    (folder / "value.pt").write_bytes(data[: len(data) // 2])


def lose_the_value(folder: Path) -> None:
    (folder / "value.pt").unlink()


def truncate_the_manifest(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])


def empty_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("null")


def lose_an_entry(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["digest"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        truncate,
        lose_the_value,
        truncate_the_manifest,
        empty_the_manifest,
        lose_an_entry,
    ],
)
def test_a_damaged_artifact_is_computed_again_with_a_warning(
    make_run: Callable[..., Run], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    make_run(tmp_path).stage(ones, "x")
    folder = artifact(tmp_path)
    damage(folder)
    with pytest.warns(UserWarning, match=f"stage artifact .*{folder.name} is computed again"):
        assert torch.equal(make_run(tmp_path).stage(ones, "x"), torch.ones(4))
    assert CALLS == ["x", "x"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_run(tmp_path).stage(ones, "x")
    assert CALLS == ["x", "x"]


def test_an_artifact_without_manifest_is_not_used(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    make_run(tmp_path).stage(ones, "x")
    (artifact(tmp_path) / "manifest.json").unlink()
    assert torch.equal(make_run(tmp_path).stage(ones, "x"), torch.ones(4))
    assert CALLS == ["x", "x"]
    make_run(tmp_path).stage(ones, "x")
    assert CALLS == ["x", "x"]


def test_manifest_tells_the_true_digest(make_run: Callable[..., Run], tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    key = stage_key(ones, [digest("x")], 0, "cpu")
    assert not store.holds(key)
    assert store.stored_digest(key) is None
    value = make_run(tmp_path).stage(ones, "x")
    assert store.holds(key)
    assert store.stored_digest(key) == digest(value)


# Processes

spawn = multiprocessing.get_context("spawn")
DEADLINE = 60.0  # seconds after which a test gives up; nothing waits for it when all is well


def wait_for(path: Path) -> None:
    end = time.monotonic() + DEADLINE
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(path)
        time.sleep(0.01)


def slow(folder: str) -> Tensor:
    """Notes that it runs, then goes on when the file `go` is there."""
    with (Path(folder) / "computed").open("a") as file:
        file.write(f"{os.getpid()}\n")
    wait_for(Path(folder) / "go")
    return torch.randn(5)


def run_slow(folder: str) -> Tensor:
    run = Run(0, CPU, StageStore(Path(folder) / "stages"), make_dataset())
    result: Tensor = run.stage(slow, folder)
    return result


def compete(folder: str, name: str) -> None:
    """A process that says when it is about to wait for the lock."""
    real = stages.FileLock

    class Announced(real):  # type: ignore[misc, valid-type]
        def acquire(self, *args: object, **kwargs: object) -> object:
            (Path(folder) / f"{name} at the lock").touch()
            return super().acquire(*args, **kwargs)

    stages.FileLock = Announced  # type: ignore[misc]
    torch.save(run_slow(folder), Path(folder) / f"{name}.pt")


def die_while_writing(folder: str) -> None:
    """A process that is killed with the data written and the manifest not."""
    real = stages.write_durably

    def write(path: Path, data: object) -> None:
        if path.name == "manifest.json":
            os.kill(os.getpid(), signal.SIGKILL)
        real(path, data)

    stages.write_durably = write
    run_slow(folder)


def test_two_processes_compute_a_shared_stage_once(tmp_path: Path) -> None:
    processes = [spawn.Process(target=compete, args=(str(tmp_path), n)) for n in ("one", "two")]
    for process in processes:
        process.start()
    for name in ("one", "two"):
        wait_for(tmp_path / f"{name} at the lock")
    (tmp_path / "go").touch()
    for process in processes:
        process.join(DEADLINE)
        assert process.exitcode == 0
    assert len((tmp_path / "computed").read_text().split()) == 1
    one, two = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("one", "two"))
    assert torch.equal(one, two)
    assert torch.equal(one, run_slow(str(tmp_path)))


def test_store_is_usable_after_a_process_was_killed(tmp_path: Path) -> None:
    computing = spawn.Process(target=run_slow, args=(str(tmp_path),))
    computing.start()
    wait_for(tmp_path / "computed")
    computing.kill()
    computing.join(DEADLINE)
    assert computing.exitcode == -signal.SIGKILL

    (tmp_path / "go").touch()
    writing = spawn.Process(target=die_while_writing, args=(str(tmp_path),))
    writing.start()
    writing.join(DEADLINE)
    assert writing.exitcode == -signal.SIGKILL
    assert list((tmp_path / "stages").glob("*/value.pt"))  # the torn write is there …

    result = run_slow(str(tmp_path))  # … and is not taken for a result
    assert len((tmp_path / "computed").read_text().split()) == 3
    assert torch.equal(result, run_slow(str(tmp_path)))
    assert len((tmp_path / "computed").read_text().split()) == 3
