"""DFR: balanced refits of the last layer, on hand-made features and against the steps by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness import Run, TrainingSet
from harness.losses import group_ids
from harness.nets import Net
from harness.pretraining import initialise, load, pretrain
from harness.space import build
from harness.stages import StageStore
from harness.training_set import BiasedDataset, GroupedSplit
from methods import dfr
from methods.dfr import DFR, Scaler


def close(actual: Tensor, expected: list[float] | Tensor) -> None:
    expected = torch.as_tensor(expected)
    torch.testing.assert_close(actual.detach(), expected, rtol=1e-5, atol=1e-6, check_dtype=False)


@pytest.fixture
def blobs() -> tuple[Tensor, Tensor, Tensor]:
    """Features: the class, faintly; the attribute, loudly; noise; and a constant."""
    torch.manual_seed(0)
    labels = torch.arange(400) % 2
    attributes = torch.where(torch.arange(400) < 40, 1 - labels, labels)
    noise = torch.randn(400, 4, dtype=torch.double)
    features = torch.stack([1.2 * labels, 40.0 * attributes, 0 * labels, 0 * labels], 1).double()
    features[:, :3] += noise[:, :3] * torch.tensor([1.0, 1.0, 5.0])
    return features, labels, group_ids(labels, attributes)


def test_a_balanced_subset_holds_each_group_as_often_as_the_smallest() -> None:
    groups = torch.tensor([0, 4, 0, 0, 4, 2, 2, 0, 2])
    torch.manual_seed(0)
    subsets = [dfr.balanced_subset(groups) for _ in range(20)]
    for subset in subsets:
        assert len(subset.unique()) == 6
        assert groups[subset].unique(return_counts=True)[1].tolist() == [2, 2, 2]
    assert torch.cat(subsets).unique().tolist() == list(range(9))


def test_the_head_is_sparse_and_ignores_what_groups_balance(
    blobs: tuple[Tensor, Tensor, Tensor],
) -> None:
    features, labels, groups = blobs
    torch.manual_seed(0)
    subset = dfr.balanced_subset(groups)
    scaled = Scaler(features)(features)
    balanced = dfr.fit_head(scaled[subset], labels[subset], 0.1)
    plain = dfr.fit_head(scaled, labels, 0.1)
    assert balanced[1, 0] > 3 * balanced[1, 1].abs()
    assert plain[1, 1] > plain[1, 0]
    assert plain[1, 3] == 0

    def worst(head: Tensor) -> float:
        right = dfr.predict(head, scaled) == labels
        return min(right[groups == g].double().mean().item() for g in range(4))

    assert worst(balanced) > worst(plain) + 0.3


def test_two_classes_are_one_problem_and_more_are_one_against_the_rest() -> None:
    """Without penalty to speak of, the optimum has mean probability equal to the frequency."""
    torch.manual_seed(0)
    features = torch.randn(300, 2, dtype=torch.double)
    labels = (features[:, 0] + torch.randn(300) > 0.3).long()
    head = dfr.fit_head(features, labels, 1e3)
    assert torch.equal(head[0], -head[1])
    logit = features @ (head[1, :2] - head[0, :2]) + head[1, 2] - head[0, 2]
    close(logit.sigmoid().mean(), labels.double().mean())

    labels = labels + (features[:, 1] > 0.5)
    head = dfr.fit_head(features, labels, 1e3)
    assert head.shape == (3, 3)
    for label in range(3):
        one = dfr.fit_head(features, (labels == label).long(), 1e3)
        close(head[label], one[1] - one[0])


def test_the_penalty_of_best_worst_group_accuracy_is_chosen(
    blobs: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of these only 0.3 leaves a head that is better than a constant answer."""
    features, labels, groups = blobs
    fitted: list[tuple[int, float]] = []
    real = dfr.fit_head

    def fit_head(features: Tensor, labels: Tensor, c: float) -> Tensor:
        fitted.append((len(labels), c))
        return real(features, labels, c)

    monkeypatch.setattr(dfr, "fit_head", fit_head)
    torch.manual_seed(0)
    assert dfr.choose_penalty(features, labels, groups, (1e-5, 0.3, 2e-5)) == 0.3
    assert [c for _, c in fitted] == [1e-5, 0.3, 2e-5]
    size = fitted[0][0]
    assert size % 4 == 0 and 4 * 4 < size <= 4 * 16  # of some 10 in the smallest group of a half


def test_the_new_head_reads_raw_features_as_the_old_reads_scaled_ones(
    blobs: tuple[Tensor, Tensor, Tensor],
) -> None:
    features, _, _ = blobs
    scaler = Scaler(features)
    scaled = scaler(features)
    close(scaled[:, :3].mean(0), [0.0, 0.0, 0.0])
    close(scaled[:, :3].var(0, correction=0), [1.0, 1.0, 1.0])
    head = torch.randn(2, 5, dtype=torch.double)
    net = Net(torch.nn.Identity(), 4, 2).double()
    dfr.set_head(net, head, scaler)
    close(net(features), (scaled @ head[:, :4].T + head[:, 4]).detach())


@pytest.mark.parametrize("scaler", ["train", "validation"])
def test_dfr_changes_the_last_layer_alone(tiny: BiasedDataset, tmp_path: Path, scaler: str) -> None:
    """On a split whose groups differ in size, so that each refit draws other samples."""
    whole = tiny.evaluation["valid_unbiased"]  # its first 18 samples of 36 are conflicting
    split = GroupedSplit(whole.images[6:], whole.labels[6:], whole.attributes[6:])
    unequal = dataclasses.replace(tiny, evaluation={"valid_unbiased": split}, fingerprint="unequal")
    train = TrainingSet(unequal, torch.device("cpu"))

    def make_run() -> Run:
        return Run(0, torch.device("cpu"), StageStore(tmp_path), unequal, True)

    method = build(DFR, {
        "pretrain.steps": 4, "pretrain.batch_size": 16, "last_layer.refits": 3,
        "last_layer.scaler": scaler,
    })  # fmt: skip
    assert method.uses_bias_labels
    run = make_run()
    torch.manual_seed(0)
    looks = [{n: v.clone() for n, v in net.state_dict().items()} for net in method.fit(train, run)]
    assert [use.name for use in run.stages] == ["initialise", "pretrain"]
    again = make_run()
    initial = again.stage(initialise, train, method.backbone)
    dense = again.stage(pretrain, train, method.backbone, method.pretrain, initial)
    assert all(torch.equal(looks[0][name], dense[name]) for name in dense)
    for name in dense:
        assert torch.equal(looks[1][name], dense[name]) is not name.startswith("head."), name

    # The head by hand, in the same random stream.
    held_out, attributes = run.validation("valid_unbiased")
    torch.manual_seed(0)
    net = load(train, method.backbone, dense).eval()
    with torch.no_grad():
        features = {
            part: torch.cat([net.features(b.images) for b in data.ordered(10)]).double()
            for part, data in (("train", train), ("validation", held_out))
        }
    groups = group_ids(held_out.labels, attributes)
    c = dfr.choose_penalty(features["validation"], held_out.labels, groups, dfr.GRIDS["waterbirds"])
    assert run.metrics["inverse_penalty"] == c
    mean, std = features[scaler].mean(0), features[scaler].std(0, correction=0)
    scaled = (features["validation"] - mean) / std.where(std > 0, 1.0)
    heads = []
    for _ in range(3):
        subset = dfr.balanced_subset(groups)
        heads.append(dfr.fit_head(scaled[subset], held_out.labels[subset], c))
    average = sum(heads) / 3
    assert not torch.equal(heads[0], heads[2])
    logits = scaled @ average[:, :-1].T + average[:, -1]
    net.load_state_dict(looks[1])
    with torch.no_grad():
        mine = net.head(features["validation"].float())
    torch.testing.assert_close(mine.double(), logits, atol=1e-4, rtol=1e-3)
