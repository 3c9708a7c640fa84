"""DCWP: what each stage may touch, and what it returns, against values made by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import Run, TrainingSet, datasets, registry
from harness.evaluation import evaluate
from harness.gates import gates, strip
from harness.losses import debiased_contrastive
from harness.nets import Backbone, Net
from harness.optimization import Training
from harness.space import Settings, build
from harness.training_set import BiasedDataset
from methods import dcwp
from methods.dcwp import DCWP, Contrastive, MinedBatch, Mining, Prune, Retrain

CNN = Backbone()
SHORT = {"steps": 4, "batch_size": 16}
PRUNE = Prune(lr=1.0, upweight=5.0, **SHORT)  # steps so long that some gates close


@pytest.fixture
def mined(tiny: BiasedDataset) -> Tensor:
    return tiny.train.labels != tiny.train.attributes


@pytest.fixture
def dense(train: TrainingSet) -> dict[str, Tensor]:
    torch.manual_seed(0)
    initial = dcwp.initialise(train, CNN)
    return dcwp.pretrain(train, CNN, Training(steps=2, batch_size=16), initial)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Net]:
    """Every network that a stage loads weights into."""
    nets: list[Net] = []
    real = dcwp.load

    def load(*arguments: object) -> Net:
        nets.append(real(*arguments))  # type: ignore[arg-type]
        return nets[-1]

    monkeypatch.setattr(dcwp, "load", load)
    return nets


def is_buffer(name: str) -> bool:
    return name.rsplit(".", 1)[-1].startswith(("running_", "num_batches"))


def clone(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in weights.items()}


@pytest.mark.parametrize("reweight", ["sample", "loss"])
def test_learning_the_mask_leaves_weights_alone_and_moves_statistics(
    train: TrainingSet, dense: dict[str, Tensor], mined: Tensor, loaded: list[Net], reweight: str
) -> None:
    before = clone(dense)
    result = dcwp.learn_mask(train, CNN, Contrastive(), PRUNE, reweight, dense, mined)
    assert all(torch.equal(dense[name], before[name]) for name in before)
    (net,) = loaded
    theta = gates(net)
    assert all((each != dcwp.GATE_START).any() for each in theta.values())
    assert all(torch.equal(result["mask"][name], each >= 0) for name, each in theta.items())
    kept = sum(int(mask.sum()) for mask in result["mask"].values())
    assert 0 < kept < sum(mask.numel() for mask in result["mask"].values())

    strip(net)
    after = net.state_dict()
    assert after.keys() == before.keys()
    for name, value in after.items():
        assert torch.equal(value, before[name]) is not is_buffer(name), name
    assert result["buffers"].keys() == {name for name in before if is_buffer(name)}
    for name, value in result["buffers"].items():
        assert torch.equal(value, after[name])
    batches = result["buffers"]["features.bn1.num_batches_tracked"]
    assert batches == before["features.bn1.num_batches_tracked"] + PRUNE.steps


def settings_of(**changes: object) -> Settings:
    base = {f"{part}.{name}": value for part in ("mining", "pretrain", "prune", "retrain")
            for name, value in SHORT.items()}  # fmt: skip
    return base | {"prune.lr": 1.0, "retrain.lr": 1e-2, "retrain.eval_every": 2} | changes


@pytest.mark.parametrize("rewind", [False, True])
def test_fine_tuning_moves_the_weights_that_the_mask_keeps_and_no_others(
    train: TrainingSet, make_run: Callable[..., Run], tmp_path: Path, rewind: bool
) -> None:
    method = build(DCWP, settings_of(**{"retrain.rewind": rewind}))
    run = make_run(tmp_path)
    looks = [clone(net.state_dict()) for net in method.fit(train, run)]
    assert len(looks) == 2

    again = make_run(tmp_path)  # reads the stages of the run above
    initial = again.stage(dcwp.initialise, train, method.backbone)
    weights = again.stage(dcwp.pretrain, train, method.backbone, method.pretrain, initial)
    found = again.stage(dcwp.mine, train, method.backbone, method.mining, None)
    pruned = again.stage(
        dcwp.learn_mask, train, method.backbone, method.contrastive, method.prune,
        method.reweight, weights, found,
    )  # fmt: skip
    assert all(use.reused for use in again.stages)
    start = initial if rewind else weights
    for layer, mask in pruned["mask"].items():
        name = f"{layer}.parametrizations.weight"
        tuned = looks[-1][f"{name}.original"]
        assert torch.equal(looks[-1][f"{name}.0.mask"], mask)
        assert not mask.all()
        assert torch.equal(tuned[~mask], start[f"{layer}.weight"][~mask])
        assert (tuned[mask] != start[f"{layer}.weight"][mask]).float().mean() > 0.9
    batches = (initial if rewind else pruned["buffers"])["features.bn1.num_batches_tracked"]
    assert looks[-1]["features.bn1.num_batches_tracked"] == batches + 4
    kept = sum(int(mask.sum()) for mask in pruned["mask"].values())
    size = sum(mask.numel() for mask in pruned["mask"].values())
    assert run.metrics["density"] == kept / size
    assert run.metrics["mining/size"] == int(found.sum())


def test_looks_come_every_few_steps_and_at_the_end(
    train: TrainingSet, make_run: Callable[..., Run]
) -> None:
    for every, count in ((1, 5), (2, 3), (5, 1), (9, 1)):
        changes = {"retrain.steps": 5, "retrain.eval_every": every}
        method = build(DCWP, settings_of(**changes))
        assert len(list(method.fit(train, make_run()))) == count


# Reweighting


@pytest.mark.parametrize("config", [Prune(upweight=9.0, **SHORT), Retrain(upweight=9.0, **SHORT)])
def test_sampling_draws_mined_samples_more_often_and_weighs_all_alike(
    train: TrainingSet, mined: Tensor, config: Prune | Retrain
) -> None:
    """8 of 64 samples, nine-fold: a share of 72 / 128."""
    torch.manual_seed(0)
    drawn = [batch for _ in range(100) for batch in dcwp.draw(train, mined, "sample", config)]
    assert all(torch.equal(batch.weights, torch.ones(16)) for batch in drawn)
    share = torch.cat([batch.mined for batch in drawn]).float().mean().item()
    assert abs(share - 72 / 128) < 0.03  # 5 standard deviations of 6400 draws


def test_loss_weighting_draws_uniformly_and_weighs_mined_samples_more(
    train: TrainingSet, mined: Tensor
) -> None:
    torch.manual_seed(0)
    config = Prune(upweight=9.0, **SHORT)
    drawn = [batch for _ in range(100) for batch in dcwp.draw(train, mined, "loss", config)]
    flags = torch.cat([batch.mined for batch in drawn])
    weights = torch.cat([batch.weights for batch in drawn])
    assert torch.equal(weights, torch.where(flags, 9.0, 1.0))
    assert abs(flags.float().mean().item() - 8 / 64) < 0.021  # 5 standard deviations


def test_debiasing_loss_is_a_weighted_mean_plus_the_contrastive_loss() -> None:
    """Two samples with losses log(1 + e^-2) and log(1 + e^2) weigh 1 and 3."""
    net = Net(nn.Flatten(), 2, 2)
    nn.init.eye_(net.head.weight)
    nn.init.zeros_(net.head.bias)
    images = torch.tensor([[2.0, 0.0], [2.0, 0.0]]).view(2, 2, 1, 1)
    batch = MinedBatch(
        images, torch.tensor([0, 1]), torch.tensor([False, True]), torch.tensor([1.0, 3.0])
    )
    plain = dcwp.debiasing_loss(net, batch, Contrastive(), 0.0)
    first, second = (torch.log1p(torch.tensor(x).exp()) for x in (-2.0, 2.0))
    torch.testing.assert_close(plain, (first + 3 * second) / 4)

    contrastive = Contrastive(temperature=0.3, positives="all")
    batch = batch._replace(labels=torch.tensor([1, 1]))
    extra = debiased_contrastive(images.flatten(1), batch.labels, batch.mined, 0.3, "all")
    with_extra = dcwp.debiasing_loss(net, batch, contrastive, 0.5)
    without = dcwp.debiasing_loss(net, batch, contrastive, 0.0)
    torch.testing.assert_close(with_extra - without, 0.5 * extra)


# Mining


def wrong(weights: dict[str, Tensor], train: TrainingSet, tiny: BiasedDataset) -> Tensor:
    net = dcwp.load(train, CNN, weights).eval()
    with torch.inference_mode():
        logits = net(tiny.train.images.float() / 255)
    return logits.argmax(1) != tiny.train.labels


def test_mining_with_the_classifier_finds_its_errors(
    train: TrainingSet, tiny: BiasedDataset, dense: dict[str, Tensor]
) -> None:
    weights = dense | {"head.weight": torch.randn(2, 256, generator=torch.manual_seed(0))}
    config = Mining(net="target", transform="eval", **SHORT)
    found = dcwp.mine(train, CNN, config, weights)
    assert found.dtype == torch.bool
    assert 0 < found.sum() < len(found)
    assert torch.equal(found, wrong(weights, train, tiny))


@pytest.mark.parametrize("loss", ["gce", "ce"])
def test_mining_with_a_biased_network_finds_its_errors(
    train: TrainingSet, tiny: BiasedDataset, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    built: list[Net] = []
    real = dcwp.build_net

    def build_net(*arguments: object) -> Net:
        built.append(real(*arguments))  # type: ignore[arg-type]
        return built[-1]

    monkeypatch.setattr(dcwp, "build_net", build_net)
    torch.manual_seed(0)
    found = dcwp.mine(train, CNN, Mining(transform="eval", loss=loss, steps=2, batch_size=16), None)
    (net,) = built
    assert 0 < found.sum() < len(found)
    assert torch.equal(found, wrong(net.state_dict(), train, tiny))


def test_the_two_losses_of_the_biased_network_differ(train: TrainingSet) -> None:
    seen = []
    for loss in ("gce", "ce"):
        config = Mining(loss=loss, optimizer="sgd", lr=0.5, **SHORT)
        torch.manual_seed(0)
        seen.append(dcwp.mine(train, CNN, config, None))
    assert not torch.equal(*seen)


def test_ensemble_scores_a_recorded_trajectory(
    train: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N = 64, B = 16: scored after steps 4 and 8 of 10, each pass weighing 4 / 10.

    Sample n has p(label) = 0.5 in the first pass and n / 64 in the second.
    """
    passes = iter([torch.full((64,), 0.5), torch.arange(64) / 64])

    def predict(net: Net, train: TrainingSet, transform: str) -> Iterator[tuple[Tensor, Tensor]]:
        p = next(passes).clamp(min=1e-6)
        at_label = torch.stack([p.log(), (1 - p).log()], 1)  # (N, 2): label first
        swap = train.labels.bool()
        logits = torch.where(swap[:, None], at_label.flip(1), at_label)
        for part in torch.arange(64).split(40):
            yield logits[part], train.labels[part]

    monkeypatch.setattr(dcwp, "predict", predict)
    config = Mining(rule="ensemble", threshold=0.5, steps=10, batch_size=16)
    torch.manual_seed(0)
    scores = dcwp.train_biased_ensemble(train, CNN, config)
    expected = 0.4 * 0.5 + 0.4 * (1 - torch.arange(64) / 64)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
    assert next(passes, None) is None

    passes = iter([torch.full((64,), 0.5), torch.arange(64) / 64])
    found = dcwp.mine(train, CNN, config, None)
    assert torch.equal(found, torch.arange(64) < 16)  # 0.2 + 0.4 (1 - n/64) > 0.5


def test_predictions_are_made_in_evaluation_mode_and_in_order(
    train: TrainingSet, tiny: BiasedDataset, dense: dict[str, Tensor]
) -> None:
    net = dcwp.load(train, CNN, dense).train()
    before = clone(net.state_dict())
    made = list(dcwp.predict(net, train, "eval"))
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(torch.cat([labels for _, labels in made]), tiny.train.labels)
    augmented = list(dcwp.predict(net, train, "train"))
    assert not torch.equal(made[0][0], augmented[0][0])


def test_the_oracle_declares_and_reads_bias_labels(
    train: TrainingSet, make_run: Callable[..., Run], mined: Tensor
) -> None:
    oracle = build(DCWP, settings_of(**{"mining.rule": "oracle"}))
    assert oracle.uses_bias_labels
    assert not build(DCWP, settings_of()).uses_bias_labels
    run = make_run(uses_bias_labels=True)
    assert list(oracle.fit(train, run))
    assert [use.name for use in run.stages] == ["initialise", "pretrain", "learn_mask"]
    assert run.metrics["mining/size"] == int(mined.sum())
    assert run.metrics["mining/precision"] == run.metrics["mining/recall"] == 1.0
    with pytest.raises(PermissionError):
        list(oracle.fit(train, make_run()))


def test_pretraining_starts_from_the_initial_weights(train: TrainingSet) -> None:
    """One SGD step from `initial`: w - lr * gradient, on a batch drawn alike."""
    torch.manual_seed(1)
    initial = dcwp.initialise(train, CNN)
    config = Training(steps=1, batch_size=64, optimizer="sgd", lr=0.1)
    torch.manual_seed(2)
    trained = dcwp.pretrain(train, CNN, config, initial)
    torch.manual_seed(2)
    net = dcwp.load(train, CNN, initial)  # draws what the stage draws for its own network
    batch = next(train.shuffled(64, 1))
    F.cross_entropy(net.train()(batch.images), batch.labels).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(trained[name], parameter.detach() - 0.1 * parameter.grad)


def test_dcwp_debiases(make_run: Callable[..., Run], tmp_path: Path) -> None:
    """On coloured shapes with 5 % bias-conflicting samples, at a quarter of the quick schedule.

    Seeds 0 to 5 were seen to raise accuracy on unbiased data by 0.02, 0.20, 0.19, 0.12, 0.11 and
    -0.02 over the dense classifier, whose own accuracy at this length is 0.53 to 0.69; seed 1 mines
    with a precision of 1.0 and a recall of 0.55.
    """
    data = datasets.load("synthetic", tmp_path, 5.0, 0)
    train = TrainingSet(data, torch.device("cpu"))
    phases = {"mining": 60, "pretrain": 100, "prune": 60, "retrain": 60}
    short = {f"{phase}.steps": steps for phase, steps in phases.items()}
    short |= {f"{phase}.batch_size": 64 for phase in phases}
    method = build(DCWP, registry.preset_settings("dcwp", "quick", "synthetic", 5.0) | short)
    run = Run(1, torch.device("cpu"), None, data)
    torch.manual_seed(1)
    *_, net = method.fit(train, run)

    dense = make_run(seed=1)
    initial = dense.stage(dcwp.initialise, train, method.backbone)
    weights = dense.stage(dcwp.pretrain, train, method.backbone, method.pretrain, initial)

    def accuracy(model: nn.Module) -> tuple[float, float]:
        table = evaluate(model, data.evaluation["test"], data.transform, data.aligned).metrics()
        return table["accuracy"], table["conflicting_accuracy"]

    before, after = accuracy(dcwp.load(train, method.backbone, weights)), accuracy(net)
    assert run.metrics["mining/precision"] > 0.7
    assert run.metrics["mining/recall"] > 0.3
    assert 0 < run.metrics["density"] < 1
    assert after[0] > before[0] + 0.05
    assert after[1] > before[1] + 0.05
