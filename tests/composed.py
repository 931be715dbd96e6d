"""No test composes user-data that the fast tier has not seen, in this process or another one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudinit_templates import composing
from tests.cloudinit import fast_tier
from tests.cloudinit.observing import sitecustomize

__all__ = ["composed_in_tests", "what_is_composed_is_checked"]


@pytest.fixture(scope="session", autouse=True)
def composed_in_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that gathers what is composed, also by the programs that tests start.

    The tests of the plugins lie elsewhere and have this fixture too: one folder serves both.
    """
    if sitecustomize.FOLDER in os.environ:
        yield Path(os.environ[sitecustomize.FOLDER])
        return
    folder = tmp_path_factory.mktemp("composed")
    paths = [str(Path(sitecustomize.__file__).parent), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(sitecustomize.FOLDER, str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        patch.setattr(composing, "Composed", composing.Composed)
        sitecustomize.observe(composing)
        yield folder
        fast_tier.check_folder(folder)


@pytest.fixture(autouse=True)
def what_is_composed_is_checked(composed_in_tests: Path) -> Iterator[None]:
    yield
    fast_tier.check_folder(composed_in_tests)
