"""MRM: the stages it has in common with DCWP and DFR, uniform pruning, and rewinding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness import Run, TrainingSet, datasets, registry
from harness.compose import Choice, compose
from harness.nets import Backbone
from harness.optimization import Training
from harness.plan import plan
from harness.presets import PRESETS
from harness.pretraining import initialise, pretrain
from harness.space import Settings, build
from harness.stages import StageStore
from methods import dcwp, mrm
from methods.mrm import MRM, Prune

SMALL: Settings = {f"{part}.{name}": value for part in ("pretrain", "prune", "retrain")
                   for name, value in {"steps": 3, "batch_size": 16}.items()}  # fmt: skip
SMALL |= {"prune.lr": 1.0, "retrain.eval_every": 2}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dataset", ["cmnist", "cifar10c", "synthetic"])
def test_presets_share_pre_training_with_dcwp_and_dfr(
    preset: str, dataset: str, tmp_path: Path
) -> None:
    recipe, store = datasets.get(dataset), StageStore(tmp_path)
    keys = []
    for study in compose(
        Choice(["dcwp", "mrm", "dfr"], [dataset], [1.0], preset=preset, device="cpu")
    ).studies:
        method = registry.load(study.method)
        planned = plan(method, study.base, recipe, "x", 0, torch.device("cpu"), store)
        names = [stage.name for stage in planned]
        assert names[:2] == ["initialise", "pretrain"]
        assert ("learn_mask" in names) == (study.method != "dfr")
        keys.append([stage.key.key for stage in planned[:2]])
    assert keys[0] == keys[1] == keys[2]


def test_results_of_dcwp_are_used(
    train: TrainingSet, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    settings = SMALL | {"mining.steps": 2, "mining.batch_size": 16}
    list(build(registry.load("dcwp"), settings).fit(train, make_run(tmp_path)))
    run = make_run(tmp_path)
    list(build(MRM, SMALL).fit(train, run))
    assert [(use.name, use.reused) for use in run.stages] == [
        ("initialise", True), ("pretrain", True), ("learn_mask", False),
    ]  # fmt: skip


def test_the_mask_is_that_of_dcwp_with_nothing_mined(train: TrainingSet) -> None:
    """Bit for bit, in the same random stream: uniform batches, no contrast, the same gates."""
    torch.manual_seed(0)
    dense = pretrain(
        train, Backbone(), Training(steps=2, batch_size=16), initialise(train, Backbone())
    )
    short = {"steps": 4, "batch_size": 16, "lr": 1.0, "sparsity_weight": 1e-4}
    torch.manual_seed(1)
    mask = mrm.learn_mask(train, Backbone(), Prune(**short), dense)
    torch.manual_seed(1)
    config = dcwp.Prune(**short, contrastive_weight=0.0, upweight=80.0)
    nothing = torch.zeros(len(train), dtype=torch.bool)
    twin = dcwp.learn_mask(
        train, Backbone(), dcwp.Contrastive(), config, "sample", dense, nothing
    )["mask"]  # fmt: skip
    assert mask.keys() == twin.keys()
    assert all(torch.equal(mask[name], twin[name]) for name in mask)
    assert not all(each.all() for each in mask.values())


def test_surviving_weights_start_from_their_initial_values(
    train: TrainingSet, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    method = build(MRM, SMALL | {"retrain.optimizer": "sgd", "retrain.lr": 1e-3})
    assert not method.uses_bias_labels
    run = make_run(tmp_path)
    torch.manual_seed(0)
    looks = [{name: value.clone() for name, value in net.state_dict().items()}
             for net in method.fit(train, run)]  # fmt: skip
    assert len(looks) == 2
    assert "mining/size" not in run.metrics

    again = make_run(tmp_path)  # reads the stages of the run above
    initial = again.stage(initialise, train, method.backbone)
    dense = again.stage(pretrain, train, method.backbone, method.pretrain, initial)
    mask = again.stage(mrm.learn_mask, train, method.backbone, method.prune, dense)
    assert all(use.reused for use in again.stages)
    kept = sum(int(each.sum()) for each in mask.values())
    assert run.metrics["density"] == kept / sum(each.numel() for each in mask.values())
    assert looks[-1]["features.bn1.num_batches_tracked"] == 3  # statistics are rewound as well
    for layer, keep in mask.items():
        weight = looks[-1][f"{layer}.parametrizations.weight.original"]
        start, end = initial[f"{layer}.weight"], dense[f"{layer}.weight"]
        assert torch.equal(weight[~keep], start[~keep])
        assert not torch.equal(weight[keep], start[keep])
        assert (weight - start).norm() < (weight - end).norm()
