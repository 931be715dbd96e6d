"""What holds for every test."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.composed import composed_in_tests, what_is_composed_is_checked

__all__ = [
    "composed_in_tests",
    "logging_as_before",
    "nothing_is_left_open",
    "pytest_configure",
    "what_is_composed_is_checked",
    "what_is_imported_stays",
]


def pytest_configure() -> None:
    """Laws are tried with the same examples in every run, however slow the machine: a change is
    red or it is not. ``--hypothesis-profile=default`` looks for new ones."""
    settings.register_profile(
        "repeatable",
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A program's main, run by a test in this process, sets logging up for all of it."""
    known = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    levels = [(entry, entry.level) for entry in known if isinstance(entry, logging.Logger)]
    handlers, raises = [*logging.getLogger().handlers], logging.raiseExceptions
    yield
    for logger, level in levels:
        logger.setLevel(level)
    logging.getLogger().handlers[:] = handlers
    logging.raiseExceptions = raises


@pytest.fixture(scope="session")
def what_is_imported_stays() -> None:
    """The collector need not look each time at what lives as long as the process."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def nothing_is_left_open(what_is_imported_stays: None) -> Iterator[None]:
    """What a test leaves open warns when it is collected, and that fails the test that runs by
    then. So it is collected before another module's begin: the error names the culprit's module,
    and comes in every run instead of in one of many."""
    yield
    gc.collect()
