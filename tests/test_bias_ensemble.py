"""BiasEnsemble: how members are trained and score, who is elected, how the stages are shared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness import Run, TrainingSet, committee, registry
from harness.committee import Member, Vote, elect, mean_over, train_member
from harness.datasets import Recipe
from harness.losses import gce
from harness.nets import Backbone, Net
from harness.plan import plan
from harness.space import Settings, build
from harness.stages import StageStore
from harness.training_set import BiasedDataset

CPU = torch.device("cpu")
CNN = Backbone("cnn")
Each = pytest.mark.parametrize("name", ["lff_be", "disent_be"])


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Net]:
    """Every network that a member trains."""
    nets: list[Net] = []
    real = committee.build_net

    def build_net(*arguments: object) -> Net:
        nets.append(real(*arguments))  # type: ignore[arg-type]
        return nets[-1]

    monkeypatch.setattr(committee, "build_net", build_net)
    return nets


@pytest.fixture
def small(small_settings: Callable[[str], Settings]) -> Callable[..., Settings]:
    def settings(name: str, **changes: object) -> Settings:
        values = small_settings(name)
        return values | {each.replace("__", "."): value for each, value in changes.items()}  # type: ignore[dict-item]

    return settings


# Members


def test_a_member_scores_every_sample_once_in_evaluation_mode(
    train: TrainingSet, built: list[Net], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the training augmentation, here with its randomness fixed."""
    passes: list[tuple[Tensor, Tensor]] = []
    real = TrainingSet.ordered

    def ordered(self: TrainingSet, batch_size: int, augment: bool = False) -> object:
        assert augment
        for batch in real(self, batch_size, augment):
            passes.append((batch.images, batch.labels))
            yield batch

    monkeypatch.setattr(TrainingSet, "ordered", ordered)
    torch.manual_seed(0)
    scores = train_member(train, CNN, Member(steps=3, batch_size=16), 0)
    (net,) = built
    images, labels = (torch.cat(parts) for parts in zip(*passes, strict=True))
    assert torch.equal(labels, train.labels)
    with torch.inference_mode():
        p = net.eval()(images).softmax(1)[torch.arange(64), labels]
    torch.testing.assert_close(scores, p)
    assert scores.shape == (64,)
    # Scoring moves no statistics.
    assert net.state_dict()["features.bn1.num_batches_tracked"] == 3


def test_a_member_learns_by_generalised_cross_entropy(train: TrainingSet, built: list[Net]) -> None:
    """One SGD step: w - lr * gradient, on a batch drawn alike."""
    config = Member(steps=1, batch_size=64, optimizer="sgd", lr=0.1, gce_q=0.6)
    torch.manual_seed(0)
    train_member(train, CNN, config, 0)
    torch.manual_seed(0)
    net = committee.build_net(CNN, 2, (3, 8, 8))
    batch = next(train.shuffled(64, 1))
    gce(net(batch.images), batch.labels, 0.6).mean().backward()
    for trained, parameter in zip(built[0].parameters(), net.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(trained.data, parameter.data - 0.1 * parameter.grad)


def test_a_member_has_the_classifiers_architecture_or_its_own(
    train: TrainingSet, built: list[Net]
) -> None:
    train_member(train, CNN, Member(steps=1, batch_size=16), 0)
    train_member(train, CNN, Member(steps=1, batch_size=16, arch="mlp16"), 0)
    assert [net.feature_dim for net in built] == [256, 16]


def test_members_drop_the_short_batch(train: TrainingSet, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(committee, "gce", lambda z, y, q: (sizes.append(len(y)), gce(z, y, q))[1])
    train_member(train, Backbone("mlp16"), Member(steps=4, batch_size=40), 0)
    assert sizes == [40] * 4


# Election


def test_a_quorum_elects() -> None:
    """Five members; samples with 2, 3 and 5 votes, and one with 3 at exactly the confidence."""
    scores = torch.tensor(
        [
            [0.995, 0.995, 0.999, 0.5],
            [0.995, 0.995, 0.999, 0.5],
            [0.900, 0.991, 0.999, 0.5],
            [0.989, 0.010, 0.999, 0.1],
            [0.010, 0.989, 0.999, 0.1],
        ]
    )
    members = [*scores]
    assert elect(members, Vote()).tolist() == [False, True, True, False]
    assert elect(members, Vote(confidence=0.5)).tolist() == [True, True, True, False]
    assert elect(members, Vote(quorum=5)).tolist() == [False, False, True, False]


def test_a_quorum_must_be_within_reach() -> None:
    with pytest.raises(ValueError, match="quorum <= members must hold"):
        build(registry.load("lff_be"), {"vote.members": 2})


def test_the_mean_over_chosen_samples() -> None:
    losses = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    chosen = torch.tensor([True, False, True])
    mean = mean_over(losses, chosen)
    assert mean.item() == 3.5
    (gradient,) = torch.autograd.grad(mean, losses)
    assert gradient.tolist() == [0.5, 0.0, 0.5]
    none = mean_over(losses, torch.zeros(3, dtype=torch.bool))
    assert none.item() == 0
    (gradient,) = torch.autograd.grad(none, losses)
    assert gradient.tolist() == [0.0, 0.0, 0.0]


# Within the methods


@Each
def test_members_are_stages_shared_by_all_trials(
    name: str,
    train: TrainingSet,
    make_run: Callable[..., Run],
    small: Callable[..., Settings],
    tmp_path: Path,
) -> None:
    def fit(**changes: object) -> Run:
        run = make_run(tmp_path)
        torch.manual_seed(0)
        assert list(build(registry.load(name), small(name, **changes)).fit(train, run))
        return run

    first = fit()
    assert [use.name for use in first.stages] == ["train_member"] * 5
    assert len({use.key for use in first.stages}) == 5
    for changes in ({"training__lr": 0.5}, {"vote__confidence": 0.6}, {"vote__members": 4}):
        assert all(use.reused for use in fit(**changes).stages), changes
    more = fit(vote__members=6).stages
    assert [use.reused for use in more] == [True] * 5 + [False]
    assert not any(use.reused for use in fit(member__gce_q=0.5).stages)


def test_both_methods_share_one_committee(
    train: TrainingSet, make_run: Callable[..., Run], small: Callable[..., Settings], tmp_path: Path
) -> None:
    reused = []
    for name in ("lff_be", "disent_be"):
        run = make_run(tmp_path)
        assert list(build(registry.load(name), small(name)).fit(train, run))
        reused += [use.reused for use in run.stages]
    assert reused == [False] * 5 + [True] * 5


@Each
def test_what_is_not_elected_is_audited_as_mined(
    name: str,
    train: TrainingSet,
    tiny: BiasedDataset,
    make_run: Callable[..., Run],
    small: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three of five members are sure of the bias-aligned samples."""
    conflicting = tiny.conflicting()

    def stage(run: Run, function: object, *arguments: object) -> Tensor:
        assert function is train_member
        return torch.where(conflicting, 0.3, 0.999 if int(arguments[-1]) < 3 else 0.5)  # type: ignore[call-overload]

    monkeypatch.setattr(Run, "stage", stage)
    run = make_run()
    assert list(build(registry.load(name), small(name)).fit(train, run))
    assert run.metrics["mining/precision"] == run.metrics["mining/recall"] == 1.0


@Each
def test_every_member_is_planned(
    name: str, tiny: BiasedDataset, small: Callable[..., Settings], tmp_path: Path
) -> None:
    recipe = Recipe(
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
        build=lambda *_: tiny,
    )
    planned = plan(
        registry.load(name), small(name), recipe, tiny.fingerprint, 0, CPU, StageStore(tmp_path)
    )
    assert [stage.name for stage in planned] == ["train_member"] * 5
    run = Run(0, CPU, None, tiny)
    assert list(build(registry.load(name), small(name)).fit(TrainingSet(tiny, CPU), run))
    assert [use.key for use in run.stages] == [stage.key.key for stage in planned]


@Each
def test_a_committee_that_is_sure_of_nothing_leaves_finite_networks(
    name: str, train: TrainingSet, make_run: Callable[..., Run], small: Callable[..., Settings]
) -> None:
    *_, net = build(registry.load(name), small(name, vote__confidence=0.9999)).fit(
        train, make_run()
    )
    assert isinstance(net, nn.Module)
    assert all(value.isfinite().all() for value in net.state_dict().values())
