"""Every provider connects, is verified, renewed and disconnected against its own twin.

Those with a plugin of their own are among them: what counts is what somebody finds installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from pydantic import SecretStr

from aura_core.adapter import binding, placed
from aura_core.errors import InvalidInput, ProviderRejected
from aura_core.manifest import AuthMethod, CodeAuth, Manifest, OAuth2Auth, WebhookAuth
from aura_core.placement import place, resolve_target
from aura_core.registry import Integration, Registry
from aura_core.skills import skill_digest
from aura_plugins.catalogue.tests.sides import Life, connected_life

_REGISTRY = Registry.discover()
_CODE = ("aws_sigv4", "oauth1", "signature", "jwt", "app_installation", "webhook")
_PROVIDERS = sorted(
    line.id
    for line in _REGISTRY.listings()
    if line.status == "available" and not set(line.strategies) <= set(_CODE)
)


@pytest.fixture(params=_PROVIDERS)
def integration(request: pytest.FixtureRequest) -> Integration:
    return _REGISTRY.open(request.param)


def _methods(manifest: Manifest) -> Iterator[AuthMethod]:
    yield from (m for m in manifest.auth if not isinstance(m, CodeAuth | WebhookAuth))


def test_there_are_as_many_as_promised() -> None:
    assert len(_PROVIDERS) >= 330


async def test_it_connects_and_disconnects_by_its_declared_flows(integration: Integration) -> None:
    for method in _methods(integration.manifest):
        async with connected_life(integration.manifest, method, integration.adapter) as life:
            _was_asked_as_declared(life, method)
            _knows_its_variables(life, method)
            assert (await life.adapter.validate_credentials(life.ctx, life.envelope())).valid
            _reaches_the_api(life)
            await _renews(life, method)
            await _ends(life, method)


async def test_a_wrong_credential_is_refused(integration: Integration) -> None:
    for method in _methods(integration.manifest):
        fields = getattr(method, "fields", ())
        if not fields or (method.verify is None and method.strategy in ("api_key", "basic")):
            continue
        async with connected_life(integration.manifest, method, integration.adapter) as life:
            wrong = {field.name: SecretStr("wrong-" + field.name) for field in fields}
            with pytest.raises((ProviderRejected, InvalidInput)):
                await life.adapter.connect_with_fields(life.ctx, wrong)


def test_a_skill_for_its_api_comes_with_it(integration: Integration) -> None:
    manifest = integration.manifest
    skill = integration.adapter.get_vm_skill_manifest(
        manifest, integration.tools, integration.tools_source
    )
    if manifest.skill is None:
        assert skill is None
        return
    assert skill is not None
    assert skill_digest(skill)
    (text,) = [file.content for file in skill.write_files if file.path == "SKILL.md"]
    assert f"{manifest.skill.command} call METHOD PATH" in text
    assert integration.tools or manifest.api.base_url in text


def _was_asked_as_declared(life: Life, method: AuthMethod) -> None:
    """The twin agreed to each step that the manifest declares, and to nothing besides."""
    if isinstance(method, OAuth2Auth):
        assert life.asked("authorization") == 2  # the page and the decision
        assert life.asked("token") == 1
        assert life.asked("step") == len(method.after_exchange)
    elif "token" in type(method).model_fields:
        assert life.asked("token") == 1
    assert "api" not in {record.endpoint for record in life.twin.journal.records}
    assert all(record.error is None for record in life.twin.journal.records)


def _knows_its_variables(life: Life, method: AuthMethod) -> None:
    """Each variable that a call needs has come from where the manifest says."""
    known = life.connected.variables
    assert {v.name for v in method.variables if v.required} <= set(known)


def _reaches_the_api(life: Life) -> None:
    """A machine's request: the binding is complete, and the twin knows whose credential it is."""
    bound = binding(life.ctx, life.connected.secrets)
    carried = placed(life.ctx, life.connected.secrets)
    assert set(life.ctx.method.placed) <= set(carried)
    target = resolve_target(bound, "/some/resource")
    request = place(bound, carried, method="GET", target=target, headers={}, body=None)
    assert request.url.startswith("http://127.0.0.1:9/")


async def _renews(life: Life, method: AuthMethod) -> None:
    envelope = life.envelope()
    fresh = await life.adapter.refresh_token(life.ctx, envelope)
    if method.strategy in ("api_key", "basic"):
        assert fresh is None
        return
    if isinstance(method, OAuth2Auth) and method.refresh.mode == "none":
        assert fresh is None
        return
    assert fresh is not None
    assert fresh.access_token != envelope.access_token
    if isinstance(method, OAuth2Auth) and method.refresh.rotation == "single_use":
        assert fresh.refresh_token not in (None, envelope.refresh_token)
    secrets = {**life.connected.secrets, "access_token": fresh.access_token}
    if fresh.refresh_token is not None:
        secrets["refresh_token"] = fresh.refresh_token
    life.connected = replace(life.connected, secrets=secrets)
    assert (await life.adapter.validate_credentials(life.ctx, life.envelope())).valid


async def _ends(life: Life, method: AuthMethod) -> None:
    receipt = await life.adapter.on_disconnect(life.ctx, life.envelope())
    outcomes = {line.outcome for line in receipt}
    if method.revocation is None:
        assert outcomes == {"not_offered"}
        return
    assert outcomes == {"revoked"}, receipt
    assert life.asked("revocation") >= 1
    gone = await life.adapter.validate_credentials(life.ctx, life.envelope())
    assert not gone.valid or method.verify is None
