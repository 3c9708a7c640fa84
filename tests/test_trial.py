"""Trials: what is recorded, what is credited, what is closed, and equal bits for equal seeds."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import Method, Run, TrainingSet, datasets, registry
from harness.disk import seal, unseal
from harness.ledger import Record
from harness.nets import Backbone, Net, build_net
from harness.optimization import Descent, Training, state
from harness.space import Settings
from harness.study import Store, Study, Work
from harness.training_set import BiasedDataset
from harness.trial import ProgressFile, run_work

TRAINING = Training(steps=3, batch_size=16, lr=1e-2)


def warm_up(train: TrainingSet, config: Training) -> dict[str, Tensor]:
    net = build_net(Backbone(), train.num_classes, train.image_shape)
    descent = Descent(net.parameters(), config)
    for batch in train.shuffled(config.batch_size, config.steps):
        descent.step(F.cross_entropy(net(batch.images), batch.labels))
    return state(net)


@dataclass(frozen=True)
class Toy(Method):
    """Two stages' worth of training; what else it does is up to `trick`."""

    name = "toy"
    steps: int = 4
    trick: str = ""

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        weights = run.stage(warm_up, train, TRAINING)
        net = build_net(Backbone(), train.num_classes, train.image_shape)
        net.load_state_dict(weights)
        run.log(steps_asked=self.steps)
        if self.trick == "peek":
            run.conflicting()
        if self.trick == "nothing":
            return
        if self.trick == "at once":
            yield net
            return
        descent = Descent(net.parameters(), TRAINING)
        for step, batch in enumerate(train.shuffled(16, self.steps), 1):
            descent.step(F.cross_entropy(net(batch.images), batch.labels))
            if step == 3 and self.trick == "break":
                raise RuntimeError("broken at step 3")
            if step == 3 and self.trick == "diverge":
                nn.init.constant_(net.head.bias, torch.nan)
            yield net
        run.log(done=1)


@dataclass(frozen=True)
class Informed(Toy):
    """Declares that it reads bias labels."""

    name = "informed"

    @property
    def uses_bias_labels(self) -> bool:
        return True


METHODS = {"toy": Toy, "informed": Informed}


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch, tiny_data: BiasedDataset) -> None:
    monkeypatch.setattr(registry, "load", lambda name, plugin: METHODS[name])


class Trial:
    """Runs one piece of work and keeps what it reports."""

    def __init__(self, store: Store, make_study: Callable[..., Study]) -> None:
        self.store, self.make_study = store, make_study
        self.reports: list[Record] = []
        self.progress: list[tuple[str, int, int]] = []

    def __call__(
        self, method: str = "toy", role: str = "search", seed: int = 0, share: bool = True,
        report: Callable[[Record], None] | None = None, amp: bool = False, **settings: str | int,
    ) -> Record:  # fmt: skip
        study = self.make_study(method, amp=amp)
        self.reports.clear()
        self.progress.clear()
        return run_work(
            study,
            Work(study.id, role, 0, seed, dict(settings)),
            self.store,
            Path(),
            report or self.reports.append,
            lambda *each: self.progress.append(each),
            share_stages=share,
        )


@pytest.fixture
def trial(store: Store, make_study: Callable[..., Study]) -> Trial:
    return Trial(store, make_study)


def without_clock(record: Record) -> Record:
    """A record less what differs between two equal trials."""
    looks = [dataclasses.replace(look, seconds=0.0) for look in record.looks]
    stages = [use | {"seconds": 0.0, "reused": None} for use in record.stages]
    return dataclasses.replace(record, looks=looks, stages=stages, seconds=0.0, started="")


def test_every_yield_is_a_look_and_the_last_is_the_result(trial: Trial) -> None:
    record = trial()
    assert record.status == "finished"
    assert record.error == record.traceback == ""
    assert [look.step for look in record.looks] == [1, 2, 3, 4]
    size = sum(value.numel() for value in build_net(Backbone(), 2, (3, 8, 8)).parameters())
    counts = {"parameters": size, "parameters_kept": size}
    assert record.metrics == {"steps_asked": 4.0, "done": 1.0} | counts
    assert record.total == {
        "valid_biased": [[18, 2], [2, 18]],
        "valid_unbiased": [[9, 9], [9, 9]],
        "test": [[11, 11], [11, 11]],
    }
    assert (
        record.evaluation("valid_biased", [[True, False], [False, True]]).correct.tolist()
        == (record.looks[-1].correct["valid_biased"])
    )
    seconds = [look.seconds for look in record.looks]
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert json.loads(json.dumps(dataclasses.asdict(record)))["number"] == 0


def test_what_was_reported_stays_as_it_was(trial: Trial) -> None:
    record = trial(role="search")
    assert [len(each.looks) for each in trial.reports] == [1, 2, 3, 4]
    assert {each.status for each in trial.reports} == {"stopped"}
    for each in trial.reports:
        assert "test" not in each.total
        assert all("test" not in look.correct for look in each.looks)
        assert "done" not in each.metrics
    assert trial.reports[-1].looks[:3] == record.looks[:3]


@pytest.mark.parametrize("role", ["search", "confirm", "train"])
def test_a_search_touches_the_test_split_once_at_its_end(
    trial: Trial, tiny: BiasedDataset, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    evaluated = []
    real = datasets.load

    class Watched(dict[str, object]):
        def __getitem__(self, name: str) -> object:
            evaluated.append(name)
            return super().__getitem__(name)

    watched = dataclasses.replace(tiny, evaluation=Watched(tiny.evaluation))
    monkeypatch.setattr(datasets, "load", lambda *_: watched)
    record = trial(role=role)
    monkeypatch.setattr(datasets, "load", real)
    searching = role == "search"
    assert evaluated.count("test") == (1 if searching else 4)
    tested = [set(look.correct) >= {"test"} for look in record.looks]
    assert tested == [not searching] * 3 + [True]
    assert ("test" in record.open_splits) is not searching
    checkpoint = trial.store.checkpoint(trial.make_study("toy").id, f"{role}/0/0")
    assert checkpoint.exists() is not searching


def test_the_kept_network_is_the_one_that_was_tested(trial: Trial, tiny: BiasedDataset) -> None:
    record = trial(role="confirm", seed=7)
    path = trial.store.checkpoint(trial.make_study("toy").id, "confirm/0/7")
    net = build_net(Backbone(), 2, (3, 8, 8))
    net.load_state_dict(torch.load(path, weights_only=True))
    test = tiny.evaluation["test"]
    images = tiny.transform(test.images, augment=False)
    hit = net.eval()(images).argmax(1) == test.labels
    table = [
        [int((hit & (test.labels == c) & (test.attributes == a)).sum()) for a in (0, 1)]
        for c in (0, 1)
    ]
    assert record.looks[-1].correct["test"] == table


def test_same_seed_same_bits_and_other_seed_other_bits(
    trial: Trial, store: Store, tmp_path: Path
) -> None:
    def weights(seed: int, folder: str, share: bool = True) -> tuple[Record, dict[str, Tensor]]:
        trial.store = Store(tmp_path / folder)
        record = trial(role="train", seed=seed, share=share)
        path = trial.store.checkpoint(trial.make_study("toy").id, f"train/0/{seed}")
        return without_clock(record), torch.load(path, weights_only=True)

    cold = weights(0, "one")
    torch.randn(7)  # a worker that has drawn numbers before
    runs = [weights(0, "one"), weights(0, "two"), weights(0, "three", share=False)]
    for record, net in runs:
        assert record == cold[0]
        assert all(torch.equal(net[name], value) for name, value in cold[1].items())
    _, other = weights(1, "one")
    assert not torch.equal(other["head.weight"], cold[1]["head.weight"])


def test_mixed_precision_is_another_study_with_other_stages_and_other_bits(
    trial: Trial, tmp_path: Path
) -> None:
    def run(amp: bool) -> tuple[Record, dict[str, Tensor]]:
        record = trial(role="train", amp=amp)
        study = trial.make_study("toy", amp=amp)
        return record, torch.load(trial.store.checkpoint(study.id, "train/0/0"), weights_only=True)

    (plain, exact), (mixed, rounded), (again, repeated) = run(False), run(True), run(True)
    assert mixed.status == plain.status == "finished"
    assert {use["key"] for use in mixed.stages}.isdisjoint(use["key"] for use in plain.stages)
    assert {use["key"] for use in mixed.stages} == {use["key"] for use in again.stages}
    assert not torch.equal(rounded["head.weight"], exact["head.weight"])
    assert all(value.dtype == exact[name].dtype for name, value in rounded.items())
    assert all(torch.equal(value, rounded[name]) for name, value in repeated.items())
    study = trial.make_study("toy")
    assert "amp" not in study.to_json()  # so that studies from before it keep their id
    assert study.id != trial.make_study("toy", amp=True).id


class FakeTime:
    """A clock that goes on by one second per reading, so that all costs are exact."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 1
        return self.now


def test_cost_does_not_depend_on_cache_luck(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    cold = trial()
    manifest_path = next(trial.store.stages.glob("warm_up-*/manifest.json"))
    manifest = unseal(manifest_path.read_text())
    assert cold.stages[0]["seconds"] == manifest["seconds"]
    manifest_path.write_text(seal(manifest | {"seconds": 1000.0}))

    clock = FakeTime()
    monkeypatch.setattr(time, "perf_counter", clock.perf_counter)
    warm = trial()
    assert warm.stages[0]["reused"] is True
    assert warm.stages[0]["seconds"] == 1000.0
    # Two readings around each step of the generator, 1 s apart; in the first step two more around
    # the stage, which took 1 of then 3 s and is credited with 1000 s instead.
    assert [look.seconds for look in warm.looks] == [1002.0, 1003.0, 1004.0, 1005.0]
    assert warm.seconds == 1005.0


def test_evaluation_is_not_counted_as_cost(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeTime()
    monkeypatch.setattr(time, "perf_counter", clock.perf_counter)
    trial()
    plain = trial()

    def report(record: Record) -> None:
        clock.now += 100

    assert trial(report=report).looks == plain.looks


@pytest.mark.parametrize("trick", ["", "at once"])
def test_looks_do_not_depend_on_cache_luck(trial: Trial, trick: str) -> None:
    cold, warm = trial(trick=trick), trial(trick=trick)
    assert (cold.stages[0]["reused"], warm.stages[0]["reused"]) == (False, True)
    assert without_clock(cold) == without_clock(warm)
    assert without_clock(trial(trick=trick, share=False)) == without_clock(cold)


def test_progress_tells_the_stage(trial: Trial) -> None:
    trial()
    stage = [("warm_up", 0, 0), ("warm_up", 1, 3), ("warm_up", 2, 3), ("warm_up", 3, 3)]
    fit = [("fit", 0, 0), *(("fit", step, 4) for step in (1, 2, 3, 4))]
    assert trial.progress == stage + fit
    trial()
    assert trial.progress == stage[:1] + fit


@pytest.mark.parametrize(
    ("trick", "error"),
    [
        ("break", "toy: RuntimeError: broken at step 3"),
        ("diverge", "toy: FloatingPointError: the classifier's logits are not finite"),
    ],
)
def test_a_failure_is_a_record_with_what_was_reached(trial: Trial, trick: str, error: str) -> None:
    whole = trial()
    record = trial(trick=trick)
    assert record.status == "failed"
    assert record.error == error
    assert (
        "Traceback" in record.traceback
        and "test_trial.py" in record.traceback
        or (trick == "diverge")
    )
    assert [look.correct for look in record.looks] == [look.correct for look in whole.looks[:2]]
    assert record.seconds == record.looks[-1].seconds > 0
    assert "test" not in record.total
    assert not list(trial.store.root.rglob("*.pt.part")) and not list(
        trial.store.root.rglob("checkpoints/*")
    )


def test_a_method_that_yields_nothing_fails(trial: Trial) -> None:
    record = trial(trick="nothing")
    assert (record.status, record.error) == (
        "failed",
        "toy: RuntimeError: fit() yielded no classifier",
    )


def test_wrong_settings_fail_by_name(trial: Trial) -> None:
    record = trial(stepz=3)
    assert record.status == "failed"
    assert record.error.startswith("toy: ValueError: unknown hyperparameter 'stepz'. Did you mean")


def test_bias_labels_are_closed_to_methods_that_do_not_declare_them(trial: Trial) -> None:
    closed = trial("toy", trick="peek")
    assert closed.status == "failed"
    assert closed.error == (
        "toy: PermissionError: bias labels are closed to a method that does not declare them"
    )
    opened = trial("informed", trick="peek")
    assert opened.status == "finished"
    assert opened.uses_bias_labels
    assert not trial("toy").uses_bias_labels


def test_bias_labels_that_are_handed_out_are_true(
    make_run: Callable[..., Run], tiny: BiasedDataset
) -> None:
    given = make_run(uses_bias_labels=True).conflicting()
    assert torch.equal(given, tiny.train.labels != tiny.train.attributes)


def test_audit_compares_with_the_hidden_groups(make_run: Callable[..., Run]) -> None:
    """Samples 0 … 7 of 64 are bias-conflicting; 6 … 9 are mined, two of them rightly."""
    run = make_run()
    mined = torch.zeros(64, dtype=torch.bool)
    mined[6:10] = True
    run.audit(mined)
    assert run.metrics == {
        "mining/size": 4.0,
        "mining/share": 4 / 64,
        "mining/precision": 0.5,
        "mining/recall": 0.25,
    }


class Stop(BaseException):
    """As a scheduler stops a trial."""


def test_a_stop_from_outside_passes_through(trial: Trial) -> None:
    def report(record: Record) -> None:
        if len(record.looks) == 2:
            raise Stop

    with pytest.raises(Stop):
        trial(report=report)


def test_progress_file_is_readable_at_any_time_and_goes_away(tmp_path: Path) -> None:
    file = ProgressFile(tmp_path / "progress" / "search-0-0.json")
    file("pretrain", 1, 10)
    assert json.loads(file.path.read_text()) == ["pretrain", 1, 10, 0.0]
    file("mine", 0, 0)
    assert json.loads(file.path.read_text())[:3] == ["mine", 0, 0]
    file.close()
    file.close()
    assert list(file.path.parent.iterdir()) == []


def test_a_trial_on_the_synthetic_data_set(
    store: Store, make_study: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the real loader: four classes, built on first use."""
    monkeypatch.undo()
    monkeypatch.setattr(registry, "load", lambda name, plugin: METHODS[name])
    settings: Settings = {"steps": 1}
    study = make_study(dataset="synthetic", ratio=5.0, base=settings)
    work = Work(study.id, "train", 0, 0, settings)
    record = run_work(study, work, store, tmp_path / "data", lambda _: None, lambda *_: None)
    assert record.error == ""
    assert sum(sum(row) for row in record.total["test"]) == 400
    assert len(record.total["test"]) == len(record.total["test"][0]) == 4
    assert isinstance(build_net(Backbone(), 4, (3, 16, 16)), Net)
