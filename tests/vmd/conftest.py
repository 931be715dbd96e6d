"""The servers that the daemon's tests share; each test has its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.vmd.control_plane import Control
from tests.vmd.harness import Machine, Provider, binding, credential, enrolled, policy, serving


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory with a short name: Unix sockets' paths are limited to 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="vm"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def control() -> AsyncIterator[Control]:
    control = Control()
    async with serving(control.app()) as control.url:
        yield control


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", provider.handle)
    async with serving(app) as provider.url:
        yield provider


@pytest.fixture
async def machine(root: Path, control: Control) -> AsyncIterator[Machine]:
    """An enrolled machine that holds nothing yet."""
    async with enrolled(root, control) as machine:
        yield machine


@pytest.fixture
async def connected(machine: Machine, provider: Provider) -> Machine:
    """... that holds a credential for the provider, and whose agent may read mail."""
    await machine.deliver("c-1", credential(binding(provider.url)))
    await machine.deliver("policy", policy("email:read"))
    return machine
