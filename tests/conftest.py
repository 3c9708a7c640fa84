"""Hand-made data, studies and records, small enough that a trial takes milliseconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness import conformance, registry
from harness.ledger import Look, Record
from harness.run import Run
from harness.space import Range, Settings, build, flatten
from harness.stages import StageStore
from harness.study import Store, Study, Work
from harness.training_set import BiasedDataset, GroupedSplit, TrainingSet, Transform

CPU = torch.device("cpu")
torch.set_num_threads(1)  # as trials do: equal bits are part of what is tested


def make_split(count: int, conflicting: int, seed: int) -> GroupedSplit:
    """Class 0 is dark at the top, class 1 at the bottom; the attribute tints a channel."""
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    attributes = labels.clone()
    attributes[:conflicting] = 1 - labels[:conflicting]
    images = torch.randint(100, 156, (count, 3, 8, 8), generator=drawn)
    half = torch.arange(8)[None, :, None] // 4 == labels[:, None, None]  # (N, 8, 1)
    images -= 60 * half[:, None]
    images[torch.arange(count), attributes] += 60
    return GroupedSplit(images.to(torch.uint8), labels, attributes)


def make_dataset(fingerprint: str = "tiny", transform: Transform | None = None) -> BiasedDataset:
    """Two classes, two attributes, 3x8x8; 8 of 64 training samples are bias-conflicting."""
    return BiasedDataset(
        name="tiny",
        ratio=12.5,
        num_classes=2,
        num_attributes=2,
        transform=transform or Transform(crop_padding=1, flip=True),
        aligned=torch.eye(2, dtype=torch.bool),
        train=make_split(64, 8, 0),
        evaluation={
            "valid_biased": make_split(40, 4, 1),
            "valid_unbiased": make_split(36, 18, 2),
            "test": make_split(44, 22, 3),
        },
        fingerprint=fingerprint,
    )


@pytest.fixture(scope="session")
def tiny() -> BiasedDataset:
    return make_dataset()


@pytest.fixture
def train(tiny: BiasedDataset) -> TrainingSet:
    return TrainingSet(tiny, CPU)


@pytest.fixture
def tiny_data(tiny: BiasedDataset, monkeypatch: pytest.MonkeyPatch) -> BiasedDataset:
    """Every data set that a trial loads is the tiny one."""
    monkeypatch.setattr("harness.datasets.load", lambda *_: tiny)
    return tiny


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def make_run(tiny: BiasedDataset) -> Callable[..., Run]:
    """Run(seed, stage folder or None)."""

    def make(stages: Path | None = None, seed: int = 0, **options: bool) -> Run:
        store = StageStore(stages) if stages else None
        return Run(seed, CPU, store, tiny, **options)

    return make


@pytest.fixture
def make_study() -> Callable[..., Study]:
    """A study of one method on two classes; fields can be replaced by name."""

    def make(
        method: str = "toy",
        base: Settings | None = None,
        space: dict[str, Range] | None = None,
        **fields: object,
    ) -> Study:
        study = Study(
            method=method,
            plugin="",
            dataset="tiny",
            ratio=12.5,
            preset="quick",
            data_seed=0,
            device="cpu",
            searcher="tpe",
            scheduler="none",
            select="unbiased",
            search_seeds=(0,),
            base=base or {},
            space=space or {},
            code="code",
            aligned=[[True, False], [False, True]],
        )
        return dataclasses.replace(study, **fields)

    return make


@pytest.fixture
def make_record() -> Callable[..., Record]:
    """A record of a piece of work whose looks reach the given unbiased accuracies."""

    def make(work: Work, *accuracies: float, status: str = "finished") -> Record:
        looks = [
            Look(step, float(step), {"valid_unbiased": [[round(1e6 * each), 0], [0, 0]]})
            for step, each in enumerate(accuracies, 1)
        ]
        total = {"valid_unbiased": [[10**6, 0], [0, 0]]}
        return Record(work.role, work.number, work.seed, work.settings, status, total, looks)

    return make


@pytest.fixture
def small_settings() -> Callable[[str], Settings]:
    """Settings of a registered method with which it trains in a moment."""

    def settings(name: str) -> Settings:
        method = registry.load(name)
        return flatten(build(method, conformance.small_settings(method)))

    return settings
