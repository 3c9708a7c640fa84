"""What the harness expects of every method, checked by running it for two steps.

`harness check` prints the findings in words; the test-suite asserts them for every built-in method.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from harness.datasets import synthetic
from harness.method import Method
from harness.run import Run
from harness.space import Settings, build, flatten, parameters
from harness.stages import StageStore
from harness.training_set import BiasedDataset, GroupedSplit, TrainingSet

CPU = torch.device("cpu")
Weights = list[dict[str, Tensor]]
"""State of every network that a fit yielded, in order."""


class Finding(NamedTuple):
    """The outcome of one check."""

    check: str
    fault: str  # empty if there is none


class Fault(Exception):  # noqa: N818 - a finding, not an error of this program
    """What is wrong with a method, and what to do about it."""


def small_dataset(train: int = 64, evaluation: int = 40) -> BiasedDataset:
    """A few images of the synthetic data set, a quarter of them bias-conflicting, in memory."""
    recipe = synthetic.RECIPE
    arrays = recipe.build(Path(), 25.0, 0, lambda description, done, total: None)

    def part(name: str, count: int) -> GroupedSplit:
        images, labels, attributes, _ = arrays[name].take(np.arange(count))
        return GroupedSplit(
            *(torch.from_numpy(np.asarray(array)) for array in (images, labels, attributes))
        )

    return BiasedDataset(
        name="small",
        ratio=25.0,
        num_classes=recipe.num_classes,
        num_attributes=recipe.num_attributes,
        transform=recipe.transform,
        aligned=torch.from_numpy(recipe.aligned_table()),
        train=part("train", train),
        evaluation={n: part(n, evaluation) for n in ("valid_biased", "valid_unbiased", "test")},
        fingerprint="small",
    )


def small_settings(method: type[Method]) -> Settings:
    """Two steps of every phase, sixteen samples each, and a look at each step."""
    small: Settings = {}
    for name in parameters(method):
        match name.rsplit(".", 1)[-1]:
            case leaf if leaf.endswith("steps"):
                small[name] = 2
            case "batch_size":
                small[name] = 16
            case "eval_every":
                small[name] = 1
    return small


class Conformance:
    """The checks of one method; each raises :class:`Fault` or returns.

    Args:
        method: The class to check.
        dataset: What it is fitted on.
    """

    def __init__(self, method: type[Method], dataset: BiasedDataset | None = None) -> None:
        self.method = method
        self.dataset = dataset or small_dataset()
        self.train = TrainingSet(self.dataset, CPU)

    def check_definition(self) -> None:
        """It is a frozen dataclass whose hyperparameters are documented."""
        if not dataclasses.is_dataclass(self.method):
            raise Fault("decorate the class with @dataclass(frozen=True)")
        if not self.method.__dataclass_params__.frozen:
            raise Fault("the dataclass is not frozen: a fit could change its own hyperparameters")
        written = self.method.__doc__ or ""  # @dataclass writes "Name(field: …)" where none is
        if not written.strip() or written.startswith(f"{self.method.__name__}("):
            raise Fault("no docstring on the class; `harness methods` lists its first line")
        bare = [p.name for p in parameters(self.method).values() if not p.doc]
        if bare:
            raise Fault(f"undocumented hyperparameters: {', '.join(bare)}; use tunable()")

    def check_settings(self) -> None:
        """Defaults are valid and survive the way through text, as --set and MLflow have them."""
        defaults = flatten(self.method())
        again = flatten(build(self.method, {name: str(v) for name, v in defaults.items()}))
        if again != defaults:
            changed = [name for name in defaults if again[name] != defaults[name]]
            raise Fault(f"defaults change when written as text: {', '.join(changed)}")

    def check_classifiers(self) -> None:
        """It yields networks with finite logits, one per class."""
        images = self.dataset.transform(self.dataset.train.images[:5], augment=False)
        yielded = 0
        for net in self._fit():
            with torch.inference_mode():
                logits = net.eval()(images)
            expected = (5, self.dataset.num_classes)
            if tuple(logits.shape) != expected:
                raise Fault(f"logits of 5 images have shape {tuple(logits.shape)}, not {expected}")
            if not logits.isfinite().all():
                raise Fault("logits are not finite after two steps")
            yielded += 1
        if not yielded:
            raise Fault("fit() yields no classifier")

    def check_training(self) -> None:
        """Its result depends on training, not on the initial draw alone."""
        weights, _ = self.weights()
        if len(weights) > 1 and _same(weights[:1], weights[-1:]):
            raise Fault("the first and the last classifier are equal: nothing is trained")

    def check_seeds(self) -> None:
        """The same seed gives the same bits, another seed others."""
        if not _same(self.weights()[0], self.weights()[0]):
            raise Fault(
                "two fits with seed 0 end in different weights: draw all randomness from torch's "
                "global generator, and keep no state between fits"
            )
        if _same(self.weights()[0], self.weights(seed=1)[0]):
            raise Fault("seeds 0 and 1 end in equal weights: do not seed generators yourself")

    def check_stages(self) -> None:
        """Computed, stored or reused, its stages lead to the same bits."""
        alone, _ = self.weights()
        with tempfile.TemporaryDirectory() as folder:
            cold, run = self.weights(Path(folder))
            warm, again = self.weights(Path(folder))
        if not _same(alone, cold) or not _same(cold, warm):
            raise Fault(
                "results differ when a stage is reused: a stage must depend on its arguments alone"
            )
        recomputed = [use.name for use in again.stages if not use.reused]
        if recomputed:
            raise Fault(f"stages whose arguments change from fit to fit: {', '.join(recomputed)}")
        if not _same_numbers(run.metrics, again.metrics):
            raise Fault("logged metrics differ when a stage is reused")

    def check_looking(self) -> None:
        """Being evaluated at a yield does not disturb it."""
        undisturbed, _ = self.weights()
        looked: Weights = []
        for net in self._fit():
            looked.append(_copy(net))
            with torch.random.fork_rng(), torch.inference_mode():
                torch.manual_seed(99)
                modes = [(module, module.training) for module in net.modules()]
                net.eval()(torch.rand(3, *self.train.image_shape))
                for module, training in modes:
                    module.training = training
        if not _same(undisturbed, looked):
            raise Fault("evaluating what it yields changes what it yields next")

    def check_bias_labels(self) -> None:
        """It reads bias labels only if it declares that it does."""
        declared = build(self.method, small_settings(self.method)).uses_bias_labels
        if declared:
            return
        try:
            list(self._fit(declared=False))
        except PermissionError:
            raise Fault(
                "it reads bias labels; set uses_bias_labels = True to declare that"
            ) from None

    def findings(self) -> Iterator[Finding]:
        """Runs every check; an exception of the method is a fault, too."""
        for name in [name for name in dir(self) if name.startswith("check_")]:
            check: Callable[[], None] = getattr(self, name)
            claim = (check.__doc__ or "").strip()
            try:
                check()
            except Fault as fault:
                yield Finding(claim, str(fault))
            except Exception as error:  # whatever a method may raise
                yield Finding(claim, f"{type(error).__name__}: {error}")
            else:
                yield Finding(claim, "")

    def weights(self, stages: Path | None = None, seed: int = 0) -> tuple[Weights, Run]:
        """Fits once; the state of every yielded network, and the run."""
        run = self._run(stages, seed)
        return [_copy(net) for net in self._fit(run=run, seed=seed)], run

    def _run(self, stages: Path | None = None, seed: int = 0, declared: bool = True) -> Run:
        store = StageStore(stages) if stages else None
        return Run(seed, CPU, store, self.dataset, uses_bias_labels=declared)

    def _fit(
        self, run: Run | None = None, seed: int = 0, declared: bool = True
    ) -> Iterator[nn.Module]:
        method = build(self.method, small_settings(self.method))
        torch.manual_seed(seed)
        yield from method.fit(self.train, run or self._run(seed=seed, declared=declared))


def _copy(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def _same(one: Weights, other: Weights) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


def _same_numbers(one: dict[str, float], other: dict[str, float]) -> bool:
    """Equal, NaN being equal to itself."""
    return repr(sorted(one.items())) == repr(sorted(other.items()))
