"""What holds for every registered method. A new method file is tested by being there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness import Run, TrainingSet, registry
from harness.compose import Choice as Typed
from harness.compose import compose
from harness.datasets import RECIPES
from harness.method import Method
from harness.presets import PRESETS
from harness.space import Settings, build, flatten, parameters
from harness.training_set import BiasedDataset

NAMES = registry.names()
EveryMethod = pytest.mark.parametrize("name", NAMES)


class Fit:
    """Fits methods with small settings."""

    def __init__(
        self,
        tiny: BiasedDataset,
        make_run: Callable[..., Run],
        small_settings: Callable[[str], Settings],
    ) -> None:
        self.train = TrainingSet(tiny, torch.device("cpu"))
        self.make_run, self.small_settings = make_run, small_settings

    def method(self, name: str) -> Method:
        method: Method = build(registry.load(name), self.small_settings(name))
        return method

    def __call__(
        self, name: str, stages: Path | None = None, seed: int = 0
    ) -> tuple[list[dict[str, Tensor]], Run]:
        """Copies of the state of every yielded network, and the run."""
        method = self.method(name)
        run = self.make_run(stages, seed=seed, uses_bias_labels=method.uses_bias_labels)
        torch.manual_seed(seed)
        return [copy(net) for net in method.fit(self.train, run)], run


def copy(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


@pytest.fixture
def fit(
    tiny: BiasedDataset,
    make_run: Callable[..., Run],
    small_settings: Callable[[str], Settings],
) -> Fit:
    return Fit(tiny, make_run, small_settings)


def test_there_are_methods() -> None:
    assert {"dcwp", "erm"} <= set(NAMES)


@EveryMethod
def test_is_a_frozen_dataclass_with_documented_hyperparameters(name: str) -> None:
    method = registry.load(name)
    assert method.name == name
    assert dataclasses.is_dataclass(method)
    with pytest.raises(dataclasses.FrozenInstanceError):
        method().anything = 1
    assert registry.summary(method).endswith(".")
    undocumented = [p.name for p in parameters(method).values() if not p.doc]
    assert not undocumented


@EveryMethod
def test_defaults_build_and_round_trip(name: str) -> None:
    method = registry.load(name)
    defaults = flatten(method())
    assert defaults == {p.name: p.default for p in parameters(method).values()}
    assert build(method, {}) == method()
    assert flatten(build(method, {n: str(v) for n, v in defaults.items()})) == defaults


@EveryMethod
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes_on_every_data_set(name: str, preset: str) -> None:
    """Settings files name hyperparameters and ranges that exist and fit, and there is a search."""
    for dataset, recipe in RECIPES.items():
        typed = Typed([name], [dataset], [*recipe.ratios], preset, "cpu")
        for study in compose(typed).studies:
            assert study.space
            assert study.base.keys() == parameters(registry.load(name)).keys()
            assert study.space.keys() <= study.base.keys()


@EveryMethod
def test_yields_classifiers_with_finite_logits(fit: Fit, name: str, tiny: BiasedDataset) -> None:
    method = fit.method(name)
    images = tiny.transform(tiny.train.images[:5], augment=False)
    nets = 0
    run = fit.make_run(uses_bias_labels=method.uses_bias_labels)
    torch.manual_seed(0)
    for net in method.fit(fit.train, run):
        assert isinstance(net, nn.Module)
        training = net.training
        with torch.inference_mode():
            logits = net.eval()(images)
        net.train(training)
        assert logits.shape == (5, 2)
        assert logits.isfinite().all()
        nets += 1
    assert nets == 2  # two steps, a look at each


@EveryMethod
def test_trains(fit: Fit, name: str) -> None:
    first, last = fit(name)[0]
    assert not same([first], [last])


@EveryMethod
def test_same_seed_same_bits_and_other_seed_other_bits(fit: Fit, name: str) -> None:
    nets, run = fit(name)
    again, run_again = fit(name)
    assert same(nets, again)
    assert run.metrics == pytest.approx(run_again.metrics, nan_ok=True, rel=0, abs=0)
    assert not same(nets, fit(name, seed=1)[0])


@EveryMethod
def test_reused_stages_leave_every_bit_as_it_is(fit: Fit, name: str, tmp_path: Path) -> None:
    alone, _ = fit(name)
    cold, run = fit(name, tmp_path)
    warm, run_again = fit(name, tmp_path)
    assert not any(use.reused for use in run.stages)
    assert all(use.reused for use in run_again.stages)
    assert [use.key for use in run.stages] == [use.key for use in run_again.stages]
    assert same(alone, cold)
    assert same(cold, warm)
    assert run.metrics == pytest.approx(run_again.metrics, nan_ok=True, rel=0, abs=0)


@EveryMethod
def test_looking_disturbs_nothing(fit: Fit, name: str) -> None:
    """The harness evaluates between steps; a method must not mind that time passes at a yield."""
    plain, _ = fit(name)
    method = fit.method(name)
    run = fit.make_run(uses_bias_labels=method.uses_bias_labels)
    torch.manual_seed(0)
    looked = []
    for net in method.fit(fit.train, run):
        looked.append(copy(net))
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(99)
            modes = [(module, module.training) for module in net.modules()]
            net.eval()(torch.rand(3, *fit.train.image_shape))
            for module, training in modes:
                module.training = training
    assert same(plain, looked)


@EveryMethod
def test_bias_labels_are_read_only_when_declared(fit: Fit, name: str) -> None:
    """Defaults of a method that declares nothing fit without them."""
    method = fit.method(name)
    run = fit.make_run(uses_bias_labels=False)
    torch.manual_seed(0)
    if method.uses_bias_labels:
        with pytest.raises(PermissionError):
            list(method.fit(fit.train, run))
    else:
        assert list(method.fit(fit.train, run))
    assert not hasattr(fit.train, "attributes")
