"""A Hetzner project to make machines in, where time passes when everybody waits for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from aura_plugin_hetzner.compute import HetznerCompute
from aura_plugin_hetzner.settings import HetznerSettings
from pydantic import SecretStr

from aura_plugins.hetzner.tests.projects import TIMEOUT, Make
from tests.fakes.hetzner.clock import VirtualClock
from tests.fakes.hetzner.goods import pricing, server_types
from tests.fakes.hetzner.project import Project
from tests.fakes.hetzner.serving import serving


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def project(clock: VirtualClock) -> Iterator[Project]:
    """It ends with the check that both sides kept to Hetzner's description of the API."""
    made = Project(clock=clock.monotonic, types=server_types(), pricing=pricing())
    for architecture in ("x86", "arm"):
        made.add_image("debian-12", type="system", architecture=architecture)
    yield made
    assert made.wrong == []


@pytest.fixture
def endpoint(project: Project) -> Iterator[str]:
    with serving(project) as address:
        yield address


@pytest.fixture
def settings(endpoint: str, project: Project) -> HetznerSettings:
    return HetznerSettings(token=SecretStr(project.token), endpoint=endpoint)


@pytest.fixture
async def make(settings: HetznerSettings, clock: VirtualClock) -> AsyncIterator[Make]:
    """Computes of the project: each is what another process would have."""
    computes = []

    def made(*, timeout: tuple[float, float] = TIMEOUT, **changes: Any) -> HetznerCompute:
        compute = HetznerCompute(
            replace(settings, **changes), clock=clock, timeout=timeout, pool=clock.pool()
        )
        computes.append(compute)
        return compute

    async with clock.running():
        yield made
        for compute in computes:
            await compute.aclose()


@pytest.fixture
async def compute(make: Make) -> HetznerCompute:
    return make()
