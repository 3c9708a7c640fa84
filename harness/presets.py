"""Presets: how long everything is trained, how much is searched and how often it is confirmed."""

from __future__ import annotations

from typing import NamedTuple

from harness.space import unknown


class Preset(NamedTuple):
    """Defaults of a sweep; the schedules themselves are in `search_spaces`."""

    name: str
    trials: int
    seeds: int
    doc: str


PRESETS = {
    "paper": Preset("paper", 32, 4, "the authors' schedule, backbone and initial weights"),
    "quick": Preset("quick", 6, 2, "a schedule for two CPU cores, networks trained from scratch"),
}


def choose_preset(name: str | None, device: str) -> tuple[Preset, str]:
    """A preset and the reason for it.

    Raises:
        ValueError: There is none of that name.
    """
    if name is None:
        if device == "cpu":
            return PRESETS["quick"], "no accelerator is used; --preset paper overrides"
        return PRESETS["paper"], f"{device} is used; --preset quick overrides"
    if name not in PRESETS:
        raise ValueError(unknown("preset", name, PRESETS))
    return PRESETS[name], "as asked"
