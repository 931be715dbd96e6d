"""What holds for every test."""

from __future__ import annotations

from tests.composed import composed_in_tests, what_is_composed_is_checked

__all__ = ["composed_in_tests", "what_is_composed_is_checked"]
