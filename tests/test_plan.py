"""Plans: what a trial would compute, told without data and in agreement with what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness import Method, TrainingSet, registry, tunable
from harness.datasets import Recipe
from harness.plan import PlannedStage, plan, shared_stages
from harness.run import Run
from harness.space import Choice, Log, Range, Settings, Uniform, build
from harness.stages import StageStore
from harness.training_set import BiasedDataset

CPU = torch.device("cpu")


@pytest.fixture
def recipe(tiny: BiasedDataset) -> Recipe:
    def never(*_: object) -> object:
        raise AssertionError("a plan builds no data")

    return Recipe(
        name="tiny",
        summary="",
        num_classes=2,
        num_attributes=2,
        image_shape=(3, 8, 8),
        ratios=(),
        transform=tiny.transform,
        backbones={},
        sources="",
        version=1,
        build=never,
    )


@pytest.fixture
def planner(recipe: Recipe, tiny: BiasedDataset, tmp_path: Path) -> Callable[..., object]:
    def make(method: str, seed: int = 0, folder: Path = tmp_path) -> Callable[..., object]:
        store = StageStore(folder)
        return lambda s: plan(registry.load(method), s, recipe, tiny.fingerprint, seed, CPU, store)

    return make


DCWP_STAGES = ["initialise", "pretrain", "mine", "learn_mask"]


def test_dcwp_is_planned_to_its_last_stage(
    planner: Callable[..., Callable[[Settings], list[PlannedStage]]],
    small_settings: Callable[[str], Settings],
) -> None:
    planned = planner("dcwp")(small_settings("dcwp"))
    assert [stage.name for stage in planned] == DCWP_STAGES
    assert not any(stage.stored for stage in planned)
    assert len({stage.key.key for stage in planned}) == 4


def test_a_plan_disturbs_no_random_stream(
    planner: Callable[..., Callable[[Settings], list[PlannedStage]]],
    small_settings: Callable[[str], Settings],
) -> None:
    for name in registry.names():
        torch.manual_seed(0)
        planner(name)(small_settings(name))
        drawn = torch.rand(1)
        torch.manual_seed(0)
        assert torch.equal(drawn, torch.rand(1)), name


def test_planned_keys_are_those_of_the_run(
    planner: Callable[..., Callable[[Settings], list[PlannedStage]]],
    small_settings: Callable[[str], Settings],
    train: TrainingSet,
    make_run: Callable[..., Run],
    tmp_path: Path,
) -> None:
    """At once for stages whose arguments are known, and for all when the results are stored."""
    settings = small_settings("dcwp")
    before = planner("dcwp")(settings)
    run = make_run(tmp_path)
    for _ in build(registry.load("dcwp"), settings).fit(train, run):
        pass
    used = [use.key for use in run.stages]
    after = planner("dcwp")(settings)
    assert [stage.name for stage in after] == [use.name for use in run.stages] == DCWP_STAGES
    assert [stage.key.key for stage in after] == used
    assert all(stage.stored for stage in after)
    known = {"initialise", "mine"}  # their arguments are no results
    assert {s.name for s, key in zip(before, used, strict=True) if s.key.key == key} == known

    other_seed = planner("dcwp", seed=1)(settings)
    assert not any(stage.stored for stage in other_seed)


def test_shared_stages_of_dcwp(
    planner: Callable[..., Callable[[Settings], list[PlannedStage]]],
    small_settings: Callable[[str], Settings],
    train: TrainingSet,
    make_run: Callable[..., Run],
    tmp_path: Path,
) -> None:
    space: dict[str, Range] = {
        "prune.sparsity_weight": Log(1e-10, 1e-6),
        "retrain.upweight": Log(5.0, 200.0),
        "mining.lr": Log(1e-4, 1e-1),
    }
    expected = {
        "initialise": [],
        "pretrain": [],
        "mine": ["mining.lr"],
        "learn_mask": ["prune.sparsity_weight", "mining.lr"],
    }
    settings = small_settings("dcwp")
    assert shared_stages(planner("dcwp"), settings, space) == expected
    for _ in build(registry.load("dcwp"), settings).fit(train, make_run(tmp_path)):
        pass
    assert shared_stages(planner("dcwp"), settings, space) == expected


def test_dcwp_mining_with_the_classifier_depends_on_its_training(
    planner: Callable[..., Callable[[Settings], list[PlannedStage]]],
    small_settings: Callable[[str], Settings],
) -> None:
    settings = small_settings("dcwp") | {"mining.net": "target"}
    causes = shared_stages(planner("dcwp"), settings, {"pretrain.lr": Log(1e-4, 1e-1)})
    assert causes == {
        "initialise": [], "pretrain": ["pretrain.lr"], "mine": ["pretrain.lr"],
        "learn_mask": ["pretrain.lr"],
    }  # fmt: skip


def test_plan_of_the_oracle_ends_at_the_bias_labels(
    planner: Callable[..., Callable[[Settings], list[PlannedStage]]],
    small_settings: Callable[[str], Settings],
) -> None:
    planned = planner("dcwp")(small_settings("dcwp") | {"mining.rule": "oracle"})
    assert [stage.name for stage in planned] == ["initialise", "pretrain"]


def test_erm_has_no_stages(
    planner: Callable[..., Callable[[Settings], list[PlannedStage]]],
    small_settings: Callable[[str], Settings],
) -> None:
    assert planner("erm")(small_settings("erm")) == []


# What a `fit` may do with a result before it trains


def stage_one(train: TrainingSet) -> Tensor:
    return torch.ones(len(train), dtype=torch.bool)


def stage_two(train: TrainingSet, mined: Tensor, config: float) -> Tensor:
    return mined


LOOKS: dict[str, Callable[[Tensor], object]] = {
    "where": lambda r: torch.where(r, 2.0, 1.0),
    "function": lambda r: torch.relu(r),
    "method": lambda r: r.float(),
    "item": lambda r: r["mask"],
    "length": lambda r: len(r),
    "loop": lambda r: [x for x in r],
    "condition": lambda r: 1 if r else 2,
    "and": lambda r: r & r,
    "or after a dict": lambda r: {} | r,
    "not": lambda r: ~r,
    "sum": lambda r: 1 + r,
    "product": lambda r: r * 2,
    "scaled": lambda r: 80.0 * r,
    "comparison": lambda r: r > 0.5,
    "equality": lambda r: r == 1,
    "number": lambda r: float(r),
}


@dataclass(frozen=True)
class Toy(Method):
    name = "toy"
    look: str = "where"
    extra: bool = False
    level: float = 1.0

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        mined = run.stage(stage_one, train)
        run.audit(mined)
        mined = run.stage(stage_two, train, mined, self.level)
        if self.extra:
            mined = run.stage(stage_two, train, mined, self.level)
        LOOKS[self.look](mined)
        raise AssertionError("the plan must have ended")
        yield


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", lambda name: Toy)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("look", LOOKS)
def test_a_plan_ends_where_a_result_is_read(
    planner: Callable[..., Callable[[Settings], list[PlannedStage]]], look: str
) -> None:
    planned = planner("toy")({"look": look})
    assert [stage.name for stage in planned] == ["stage_one", "stage_two"]


@pytest.mark.usefixtures("toy")
def test_shared_stages_where_the_stages_themselves_depend_on_the_setting(
    planner: Callable[..., Callable[[Settings], list[PlannedStage]]],
) -> None:
    base: Settings = {"look": "where", "extra": True, "level": 1.0}
    space: dict[str, Range] = {
        "extra": Choice((True, False)),
        "level": Uniform(0.0, 1.0),
        "look": Choice(("where",)),  # nothing to choose from
    }
    causes = shared_stages(planner("toy"), base, space)
    assert causes == {"stage_one": [], "stage_two": ["extra", "level"]}


@dataclass(frozen=True)
class Broken(Method):
    name = "toy"
    level: float = tunable(1.0, "Unused.")
    inner: object = field(default=None)

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        raise KeyError("a defect of the method")
        yield


def test_a_defect_of_a_method_ends_its_plan_and_not_the_sweep(
    planner: Callable[..., Callable[[Settings], list[PlannedStage]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "load", lambda name: Broken)
    assert planner("toy")({}) == []
