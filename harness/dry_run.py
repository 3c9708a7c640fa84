"""What a sweep would do, without training: runs, shared stages, time and disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from harness import datasets, registry
from harness.console import say
from harness.execution import Site
from harness.plan import PlannedStage, plan, shared_stages
from harness.run import arithmetic
from harness.space import Settings
from harness.stages import StageStore
from harness.study import Study


def stages_of(study: Study, settings: Settings, seed: int, site: Site) -> list[PlannedStage]:
    """The stages that one run of a study would call."""
    card = datasets.describe(study.dataset, site.data_root, study.ratio, study.data_seed)
    device = torch.device(study.device)
    with arithmetic(device, study.amp):
        return plan(
            registry.load(study.method, study.plugin),
            settings,
            datasets.get(study.dataset),
            card["fingerprint"] if card else "not built",
            seed,
            device,
            StageStore(site.store.stages),
        )


def say_plan(study: Study, site: Site, trials: int, seeds: int) -> None:
    """Prints what a sweep would do; trains nothing."""
    ledger = site.store.ledger(study.id)
    search = len(study.search_seeds) * (trials if study.space else 1)
    done = len(ledger.of("search")), len(study.confirmed(ledger))
    say(f"{study.id}")
    say(f"  {search} search runs ({done[0]} done), {seeds} confirm runs ({done[1]} done)")
    say(f"  searched: {', '.join(f'{n} in {r}' for n, r in study.space.items()) or 'nothing'}")

    def plan_of(settings: Settings) -> list[PlannedStage]:
        return stages_of(study, settings, study.search_seeds[0], site)

    for stage, causes in shared_stages(plan_of, study.base, study.space).items():
        kept = next(s.stored for s in plan_of(study.base) if s.name == stage)
        shared = f"one per trial: depends on {', '.join(causes)}" if causes else "shared by trials"
        say(f"  stage {stage}: {shared}{' (already computed)' if kept else ''}")
    say(f"  {_estimate(study, site, search - done[0] + seeds - done[1])}")
    free = shutil.disk_usage(site.store.root if site.store.root.exists() else Path.cwd()).free
    card = datasets.describe(study.dataset, site.data_root, study.ratio, study.data_seed)
    built = "on disk" if card else "not built yet"
    say(f"  data set {built} in {site.data_root}; {free / 2**30:.0f} GiB free for the store")


def _estimate(study: Study, site: Site, runs: int) -> str:
    """Time for so many runs, from earlier ones under the same conditions in this store."""
    seconds = [
        record.seconds
        for other in site.store.studies()
        if (other.method, other.dataset, other.preset, other.device)
        == (study.method, study.dataset, study.preset, study.device)
        for record in site.store.ledger(other.id).records.values()
        if record.status == "finished"
    ]
    if not seconds:
        return f"{runs} runs; no estimate of time, nothing like them has run in this store"
    hours = runs * sum(seconds) / len(seconds) / site.concurrency / 3600
    return (
        f"{runs} runs on {site.concurrency} workers: at most {hours:.2f} h from the mean of "
        f"{len(seconds)} earlier runs, less what shared stages save"
    )
