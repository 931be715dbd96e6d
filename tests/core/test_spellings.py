"""The domain rule in the control plane's ``api``: no spelling of a host gets around it, up to the
socket."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from aura_core.api import BoundApi, CheckedTransport, http_client
from aura_core.errors import AuraError
from aura_core.permissions import AgentPermissions
from tests.core.bound import bound
from tests.core.providers import secrets
from tests.core.spellings import ODD, spelled
from tests.core.test_connecting import LIMITS, Server

HOSTS = ("api.example.com", "127.0.0.1", "other.example.com")
PERMISSIONS = AgentPermissions(
    scopes=frozenset({"api:outbound"}), allowed_domains=("api.example.com",)
)


async def outcomes(hosts: Sequence[str]) -> tuple[list[str], list[str], int]:
    """What came of a call to each, which names were looked up, and how many connections came."""
    asked: list[str] = []

    async def lookup(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ("127.0.0.1",)

    server, came = Server(), []
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    facts = bound(hosts=(*HOSTS, *(f"{host}:{port}" for host in HOSTS)))
    transport = CheckedTransport(limits=LIMITS, resolver=lookup)
    async with listening, http_client(transport=transport) as http:
        api = BoundApi(facts, secrets(access_token="t"), http, permissions=PERMISSIONS)
        for host in hosts:
            for url in (f"https://{host}/x", f"https://{host}:{port}/x", f"//{host}:{port}/x"):
                try:
                    await api.send("GET", url)
                    came.append("answered")
                except AuraError as error:
                    came.append(getattr(error, "rule", type(error).__name__))
    return came, asked, server.connections


async def test_no_odd_spelling_is_called() -> None:
    came, asked, connections = await outcomes(ODD)
    assert set(came) <= {"host", "InvalidInput", "domain:127.0.0.1"}
    assert (asked, connections) == ([], 0)


@settings(deadline=None, max_examples=60)
@given(st.lists(spelled, min_size=1, max_size=20))
def test_no_spelling_is_called_but_the_one(hosts: list[str]) -> None:
    """Of all that can be put together, only the allowed host itself is ever looked up, and what
    its name server says of it is judged again."""
    came, asked, connections = asyncio.run(outcomes(hosts))
    assert connections == 0
    assert set(asked) <= {"api.example.com"}
    assert "answered" not in came


async def test_the_allowed_host_gets_as_far_as_its_address() -> None:
    came, asked, _ = await outcomes(["api.example.com", "other.example.com"])
    assert came[:2] == ["address:private"] * 2
    assert asked == ["api.example.com"] * 2
    assert came[3:5] == ["domain:other.example.com"] * 2
