"""What holds for every test."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.composed import composed_in_tests, what_is_composed_is_checked

__all__ = ["composed_in_tests", "logging_as_before", "what_is_composed_is_checked"]


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
