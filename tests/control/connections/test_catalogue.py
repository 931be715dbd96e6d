"""Providers of the catalogue through the whole control plane, each against its own twin.

One for each kind of flow: what a user does by HTTP is what is asked for here, and the providers'
addresses lead to twins in this process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from aura_control.app import Outside, create_app
from aura_control.bootstrap import Owner
from aura_control.settings import Settings
from aura_core.api import http_client
from aura_core.compute import HostContext
from aura_core.hookspecs import GROUP
from aura_core.registry import Registry
from aura_core.testing.twin import TwinAccount, consent, create_twin
from tests.control.connections.conftest import Clock

_BROWSER = {
    "asana": "",
    "basecamp": "",
    "clio": "?hostname=https://eu.app.clio.com",
    "pipedrive": "",
    "zendesk": "?subdomain=acme",
}
_TYPED: dict[str, dict[str, Any]] = {
    "crowdstrike": {},
    "freshdesk": {"variables": {"subdomain": "acme"}},
    "mailchimp": {"auth": "api_key"},
}
_PORTS = {name: 9001 + place for place, name in enumerate([*_BROWSER, *_TYPED])}


class _Twins(httpx.AsyncBaseTransport):
    """Leads each loopback port to the twin that would listen there."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._apps = {
            port: httpx.ASGITransport(
                create_twin(
                    registry.get(name),
                    origin=f"http://127.0.0.1:{port}",
                    accounts=[TwinAccount(fields={"api_key": "twin-api_key-us21"})],
                    clock=clock,
                )
            )
            for name, port in _PORTS.items()
        }

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert request.url.host == "127.0.0.1"
        answer = await self._apps[request.url.port or 0].handle_async_request(request)
        return httpx.Response(
            answer.status_code, headers=answer.headers, content=await answer.aread()
        )


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    points = [point for point in entry_points(group=GROUP) if point.name == "catalogue"]
    return Registry.discover(
        entry_points=points,
        relocations={name: f"http://127.0.0.1:{port}" for name, port in _PORTS.items()},
        context=HostContext(data_dir=tmp_path_factory.mktemp("machines")),
    )


@pytest.fixture
async def callers(
    settings: Settings, registry: Registry, owners: tuple[Owner, Owner], clock: Clock
) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """A user of a control plane, and the same user's browser at the providers."""
    twins = _Twins(registry, clock)
    names = {
        f"{name.upper()}_{kind}": f"the-{kind.lower()}"
        for name in _BROWSER
        for kind in ("CLIENT_ID", "CLIENT_SECRET")
    }
    app = create_app(
        settings,
        registry,
        outside=Outside(http=lambda: http_client(transport=twins), environment=names, clock=clock),
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        user = await stack.enter_async_context(
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app),
                base_url=settings.public_url,
                headers={"Authorization": f"Bearer {owners[0].token}"},
            )
        )
        browser = await stack.enter_async_context(httpx.AsyncClient(transport=twins))
        yield user, browser


Callers = tuple[httpx.AsyncClient, httpx.AsyncClient]


@pytest.mark.parametrize("provider", sorted(_BROWSER))
async def test_a_provider_connects_by_browser(provider: str, callers: Callers) -> None:
    user, browser = callers
    left = await user.get(f"/api/integrations/{provider}{_BROWSER[provider]}")
    assert left.status_code == 302, left.text
    back = await consent(browser, left.headers["location"])
    answer = await user.get(
        f"/api/integrations/{provider}/callback", params=dict(parse_qsl(urlsplit(back).query))
    )
    assert answer.status_code == 200, answer.text
    await _works_and_ends(user, provider)


@pytest.mark.parametrize("provider", sorted(_TYPED))
async def test_a_provider_connects_by_what_is_typed_in(
    provider: str, callers: Callers, registry: Registry
) -> None:
    user, _ = callers
    body = dict(_TYPED[provider])
    method = registry.get(provider).auth_method(body.get("auth"))
    account = TwinAccount(fields={"api_key": "twin-api_key-us21"})
    typed = {entry.name: account.credential(entry.name) for entry in getattr(method, "fields", ())}
    wrong = {name: f"{value}x" for name, value in typed.items()}
    refused = await user.post(f"/api/integrations/{provider}", json={**body, "fields": wrong})
    assert refused.status_code == 422
    answer = await user.post(f"/api/integrations/{provider}", json={**body, "fields": typed})
    assert answer.status_code == 201, answer.text
    await _works_and_ends(user, provider)


async def test_all_are_listed_with_what_only_one_source_says(callers: Callers) -> None:
    user, _ = callers
    lines = {line["id"]: line for line in (await user.get("/api/providers")).json()["providers"]}
    assert len(lines) > 300
    assert lines["aws"]["status"] == "coming_soon"
    assert "Signature Version 4" in lines["aws"]["reason"]
    assert lines["basecamp"]["single_source"] == ["auth.oauth2.verify"]
    assert lines["asana"]["skill"] is True
    soon = await user.get("/api/integrations/aws")
    assert soon.status_code == 409
    assert "Signature Version 4" in soon.text


async def _works_and_ends(user: httpx.AsyncClient, provider: str) -> None:
    (line,) = (await user.get("/api/integrations")).json()["integrations"]
    assert (line["provider"], line["state"]) == (provider, "connected")
    checked = await user.post(f"/api/integrations/{provider}/validate")
    assert checked.status_code == 200, checked.text
    assert checked.json()["valid"] is True
    receipt = await user.delete(f"/api/integrations/{provider}")
    assert receipt.status_code == 200, receipt.text
