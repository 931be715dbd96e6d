"""What end-to-end tests share: a place to run in, browsers, and an OpenID provider."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.e2e.browser import Browser
from tests.e2e.local_machines import destroy_all
from tests.e2e.openid_provider import OpenIdProvider, User, openid_provider
from tests.e2e.programs import ControlPlane, control_plane


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
def machines_home(home: Path) -> Iterator[Path]:
    """A directory whose ``data`` holds local machines: none of them outlives the test."""
    yield home
    destroy_all(home / "data")


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


@pytest.fixture(scope="module")
def openid(module_home: Path) -> Iterator[OpenIdProvider]:
    """An OpenID provider that others wrote."""
    with openid_provider(module_home / "provider.log") as running:
        yield running


@pytest.fixture(scope="module")
def openid_plane(module_home: Path, openid: OpenIdProvider) -> Iterator[ControlPlane]:
    """A control plane that knows it by a manifest."""
    with control_plane(module_home, **openid.dropped_into(module_home / "manifests")) as running:
        yield running


@pytest.fixture
def user(openid_plane: ControlPlane, openid: OpenIdProvider) -> Iterator[User]:
    """Somebody with a tenant of their own, and an account of the same name at the provider."""
    account = f"u{uuid4().hex[:8]}"
    openid.issue_for(3600)
    with openid_plane.client(openid_plane.add_user(f"{account}@aura.test")) as api:
        yield User(account=account, api=api, provider=openid)
