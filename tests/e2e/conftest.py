"""What end-to-end tests share: a place to run in, and browsers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.browser import Browser


@pytest.fixture(scope="module")
def module_home() -> Iterator[Path]:
    """A directory for what a module's tests share."""
    yield from _directory()


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory of the test's own, with a path so short that sockets can lie in it."""
    yield from _directory()


def _directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="aura-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def browser() -> Iterator[Browser]:
    """The user's browser."""
    with Browser() as opened:
        yield opened


@pytest.fixture
def other_browser() -> Iterator[Browser]:
    """Somebody else's browser."""
    with Browser() as opened:
        yield opened
