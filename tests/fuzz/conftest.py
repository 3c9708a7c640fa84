"""Profiles of the property-based tests, and how many inputs they generated.

`HYPOTHESIS_PROFILE=long pytest tests/fuzz` runs the long set, of new inputs each time; without it a
short one, of the same inputs each time.
"""

from __future__ import annotations

import os
import tempfile

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

set_hypothesis_home_dir(os.path.join(tempfile.gettempdir(), "hypothesis"))  # not into the checkout
QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]
shared = settings(deadline=None, database=None, suppress_health_check=QUIET)
settings.register_profile("short", shared, max_examples=15, derandomize=True)
settings.register_profile("long", shared, max_examples=600, derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    handle = getattr(pyfuncitem.obj, "hypothesis", None)
    if handle is None:
        return
    inner, count = handle.inner_test, 0

    def counted(*args, **kwargs):
        nonlocal count
        count += 1
        return inner(*args, **kwargs)

    handle.inner_test = counted
    pyfuncitem.addfinalizer(lambda: setattr(handle, "inner_test", inner))
    pyfuncitem.generated = lambda: count


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item, call):
    if call.when == "call" and hasattr(item, "generated"):
        item.user_properties.append(("generated inputs", item.generated()))


def pytest_terminal_summary(terminalreporter):
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.getreports(kind)]
    counts = {r.nodeid: dict(r.user_properties).get("generated inputs", 0) for r in reports}
    if os.environ.get("HYPOTHESIS_PROFILE") == "long":
        for name, count in counts.items():
            terminalreporter.write_line(f"{count:6} {name}")
    terminalreporter.write_line(f"{sum(counts.values())} generated inputs")
