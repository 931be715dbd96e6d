"""What holds for the tests of plugins, too."""

from __future__ import annotations

from tests.composed import composed_in_tests, what_is_composed_is_checked
from tests.conftest import logging_as_before, nothing_is_left_open, what_is_imported_stays

__all__ = [
    "composed_in_tests",
    "logging_as_before",
    "nothing_is_left_open",
    "what_is_composed_is_checked",
    "what_is_imported_stays",
]
