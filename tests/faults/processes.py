"""Processes that are killed or interrupted, nodes that are lost, and sweeps that meet."""

from __future__ import annotations

import os
import random
import re
import signal
from contextlib import suppress
from functools import partial

from tests.cluster import two_nodes
from tests.faults.catalogue import fault
from tests.faults.lab import RUNS, SWEEP, Lab, Outcome, Sweep, words

LEFT = "the same command continues"


def kill_by_signal(lab: Lab, rng: random.Random, group: bool) -> Outcome:
    """SIGKILL of the driver or its group."""
    sweep = lab.start_until_a_random_moment(rng)
    sweep.send(signal.SIGKILL, group)
    return lab.continued(sweep)


fault("driver killed", "SIGKILL of the driver at a random moment", 20)(
    partial(kill_by_signal, group=False)
)
fault(
    "driver's group killed",
    "SIGKILL of the process group of driver and Ray head, at a random moment",
    5,
)(partial(kill_by_signal, group=True))


def start_with_workers(lab: Lab, rng: random.Random) -> Sweep:
    """A sweep at a random moment at which it has workers."""
    while True:
        sweep = lab.start_until_a_random_moment(rng)
        try:
            sweep.wait_for(lambda sweep=sweep: bool(sweep.processes("ray::ImplicitFunc")), "worker")
        except AssertionError:
            if sweep.process.poll() is None:
                raise
        else:
            return sweep  # else it had none left, and has ended


@fault("worker killed", "SIGKILL of a worker process at a random moment", times=5)
def kill_a_worker(lab: Lab, rng: random.Random) -> Outcome:
    sweep = start_with_workers(lab, rng)
    before = len(sweep.look())
    with suppress(ProcessLookupError):
        os.kill(rng.choice(sweep.processes("ray::ImplicitFunc")), signal.SIGKILL)
    sweep.end()
    return Outcome(sweep.store, [sweep], before, told=sweep.line("died"))


@fault("last worker killed", "SIGKILL of a worker when its run is the only one left", times=2)
def kill_the_last_worker(lab: Lab, rng: random.Random) -> Outcome:
    """Tune has been told by then that there is no more work."""
    seconds = lab.undisturbed().seconds
    sweep = lab.start(lab.new_store())
    sweep.wait_for(lambda: len(begun(sweep)) == RUNS, "last run")
    worker = rng.choice(sweep.processes("ray::ImplicitFunc"))
    os.kill(worker, signal.SIGSTOP)
    sweep.wait_for_records(RUNS - 1)
    sweep.run_for(seconds / (4 * RUNS))
    before = len(sweep.look())
    os.kill(worker, signal.SIGKILL)
    sweep.end()
    return Outcome(sweep.store, [sweep], before, told=sweep.line("died"))


def kill_parts_of_ray(lab: Lab, rng: random.Random, names: list[str]) -> Outcome:
    """SIGKILL of what belongs to Ray but is no worker; the driver has to say so and end."""
    sweep = start_with_workers(lab, rng)
    sweep.kill(*names)
    return lab.continued(sweep, code=1, ends=LEFT)


HEAD = ["/gcs_server ", "/raylet ", "ray/_private/", "ray/dashboard/", "ray/autoscaler/", "Agent"]
for name, parts in (("gcs_server", HEAD[:1]), ("raylet", HEAD[1:2]), ("head", HEAD)):
    injected = f"SIGKILL of {'all processes of its head' if parts == HEAD else name}"
    fault(f"Ray's {name} killed", f"{injected} at a random moment", 3)(
        partial(kill_parts_of_ray, names=parts)
    )


@fault("Ctrl-C", "SIGINT to the process group at a random moment", times=5)
def interrupt(lab: Lab, rng: random.Random) -> Outcome:
    sweep = lab.start_until_a_random_moment(rng)
    hit = sweep.send(signal.SIGINT, group=True)
    outcome = stopped(lab, sweep, hit)
    unfinished = begun(sweep) - {tuple(map(str, key)) for key in sweep.said()}
    if unfinished:
        raise AssertionError(f"did not finish what was running, {unfinished}: {sweep.output}")
    return outcome


@fault("Ctrl-C twice", "SIGINT to the process group, and again when it has answered", times=5)
def interrupt_twice(lab: Lab, rng: random.Random) -> Outcome:
    sweep = lab.start_until_a_random_moment(rng)
    hit = sweep.send(signal.SIGINT, group=True)
    sweep.wait_for_line_or_end("Ctrl-C again")
    sweep.send(signal.SIGINT, group=True)
    return stopped(lab, sweep, hit)


@fault("SIGTERM", "SIGTERM to the driver at a random moment", times=5)
def terminate(lab: Lab, rng: random.Random) -> Outcome:
    sweep = lab.start_until_a_random_moment(rng)
    hit = sweep.send(signal.SIGTERM)
    return stopped(lab, sweep, hit)


@fault("same sweep twice", "the same command in a second terminal at a random moment", times=2)
def start_the_same(lab: Lab, rng: random.Random) -> Outcome:
    first = lab.start_until_a_random_moment(rng)
    before = len(first.look())
    second = lab.finish(first.store)
    first.end()
    # A first sweep that had just ended leaves the second nothing to do.
    alone = "nothing left to train" in second.output
    told = second.last_line if not alone else second.line("nothing left to train")
    return Outcome(first.store, [first, second], before, told=told, codes=[0, 0 if alone else 2])


SHARING = words("dcwp", "mrm", parts=["mining", "pretrain", "prune", "retrain"])
APART = [
    words("dcwp", parts=["mining", "pretrain", "prune", "retrain"]),
    words("mrm", parts=["pretrain", "prune", "retrain"]),
]


@fault("two sweeps at once", "two sweeps with common stages on one store, at once", times=2)
def start_two(lab: Lab, rng: random.Random) -> Outcome:
    store = lab.new_store()
    sweeps = [lab.start(store, each) for each in APART]
    for sweep in sweeps:
        sweep.end()
    return Outcome(store, sweeps, 0, SHARING, told="(both finish)", codes=[0, 0])


@fault("node lost", "SIGKILL of all of one node of a Ray cluster of two, at a random moment", 3)
def lose_a_node(lab: Lab, rng: random.Random) -> Outcome:
    lab.undisturbed()
    with two_nodes() as cluster:
        token = {n: v for n, v in cluster.environment.items() if n.startswith("RAY_AUTH")}
        joined = ["--address", cluster.address]
        sweep = lab.start_until_a_random_moment(rng, more=joined, environment=token)
        before = len(sweep.look())
        cluster.other.lose()
        sweep.end()
    return Outcome(sweep.store, [sweep], before, SWEEP, told=sweep.line("died"))


def stopped(lab: Lab, sweep: Sweep, hit: bool) -> Outcome:
    """The outcome of a sweep that was told to stop, if it was still running then."""
    return lab.continued(sweep, code=130, ends=LEFT) if hit else lab.continued(sweep, code=0)


def begun(sweep: Sweep) -> set[tuple[str, ...]]:
    """Study, role, number and seed of what it said it started."""
    return set(re.findall(r"^\S+ start (\S+) (\w+) (\d+) seed (\d+)", sweep.output, re.MULTILINE))
