"""Revoking at providers that are away, across restarts, and not for ever."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from aura_control.services.keys import EnvelopeRefused
from aura_core.adapter import Context, IntegrationAdapter, RevocationResult
from aura_core.credentials import CredentialEnvelope
from aura_core.errors import KeyMissing, ProviderUnavailable
from tests.control.connections.conftest import Control, Running
from tests.control.connections.ending.looking import PATH, only_sqlite, pending, receipt, revoked
from tests.control.connections.provider import Gate


@only_sqlite
async def test_what_would_end_the_new_grant_is_left_alone(control: Control) -> None:
    await control.connect("cascading")
    control.provider.revocable = False
    async with control.client(control.ada) as caller:
        await caller.delete("/api/integrations/cascading")
    assert await pending(control) == 1
    await control.connect("cascading")
    control.provider.revocable = True
    asked = control.provider.count("/revoke")
    control.clock.forward(hours=1)
    await revoked(control, await control.connection("cascading"))
    assert control.provider.count("/revoke") == asked
    assert await pending(control) == 0
    async with control.services.database.reading() as tx:
        entries = await tx.audit.entries(tenant_id=control.ada.tenant_id, limit=5)
    (told,) = [entry for entry in entries if entry.action == "connection.revoked"]
    assert "connected again" in told.metadata["tokens"]["refresh_token"]["detail"]


async def test_a_provider_that_is_away_is_asked_again_after_a_restart(running: Running) -> None:
    async with running() as control:
        await control.connect()
        tokens = (await control.secrets()).values()
        control.provider.revocable = False
        async with control.client(control.ada) as caller:
            first = (await caller.delete(PATH)).json()
            again = (await caller.delete(PATH)).json()
        assert {line["outcome"] for line in first["tokens"]} == {"failed"}
        assert all(line["retry_at"] and "503" in line["detail"] for line in first["tokens"])
        assert (first["complete"], again) == (False, first)
        assert control.provider.count("/revoke") == 2
        assert (await control.connection()).envelope().refresh_token is None
        assert any(control.provider.knows(token) for token in tokens)
    control.provider.revocable = True
    control.clock.forward(minutes=1)
    async with running() as control:
        await revoked(control, await control.connection())
        done = await receipt(control)
        assert {line["outcome"] for line in done["tokens"]} == {"revoked"}
        assert done["complete"]
        assert not any(control.provider.knows(token) for token in tokens)
        assert await pending(control) == 0
        async with control.services.database.reading() as tx:
            assert (await tx.audit.verify(control.ada.tenant_id)).state == "whole"


@only_sqlite
async def test_a_crash_before_the_provider_was_asked_is_made_good(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(*_arguments: object, **_names: object) -> None:
        return None

    async with running() as control:
        await control.connect()
        revoker = control.services.revoker
        with monkeypatch.context() as patch:
            # What a process that dies right after the commit leaves behind: no attempt.
            patch.setattr(revoker, "attempt", killed)
            patch.setattr(revoker, "wake", lambda: None)
            async with control.client(control.ada) as caller:
                left = (await caller.delete(PATH)).json()
        assert {line["outcome"] for line in left["tokens"]} == {"pending"}
        assert control.provider.count("/revoke") == 0
        assert control.provider.alive == 2
    asked = Gate()
    asked.opened.set()
    control.provider.faults.append(asked.fault)
    async with running() as control:
        await asyncio.wait_for(asked.reached.wait(), 20)
        await control.services.revoker.drain()
        assert control.provider.alive == 0
        assert (await receipt(control))["complete"]


@only_sqlite
async def test_a_provider_that_stays_away_is_given_up_after_a_day(control: Control) -> None:
    await control.connect()
    control.provider.revocable = False
    async with control.client(control.ada) as caller:
        await caller.delete(PATH)
    connection = await control.connection()
    for _ in range(3):
        control.clock.forward(hours=9)
        await revoked(control, connection)
    assert await pending(control) == 0
    done = await receipt(control)
    assert done["complete"]
    for line in done["tokens"]:
        assert (line["outcome"], line["retry_at"]) == ("failed", None)
        assert "by hand" in line["detail"]


@only_sqlite
async def test_a_token_that_the_provider_gave_again_is_not_revoked(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some providers answer a second consent with the refresh token of the first."""
    await control.connect()
    old = await control.secrets()
    control.provider.revocable = False
    async with control.client(control.ada) as caller:
        await caller.delete(PATH)
    issue = control.provider._next
    monkeypatch.setattr(
        control.provider,
        "_next",
        lambda kind: old["refresh_token"] if kind == "refresh" else issue(kind),
    )
    await control.connect()
    control.provider.revocable = True
    control.clock.forward(hours=1)
    await revoked(control, await control.connection())
    assert await pending(control) == 0
    new = await control.secrets()
    assert new["refresh_token"] == old["refresh_token"]
    assert all(control.provider.knows(token) for token in new.values())
    assert not control.provider.knows(old["access_token"])


@only_sqlite
async def test_the_new_tokens_key_may_be_away_for_a_while(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then nobody knows whether the old tokens are in use: they are neither revoked nor lost."""
    await control.connect()
    old = await control.secrets()
    control.provider.revocable = False
    async with control.client(control.ada) as caller:
        await caller.delete(PATH)
    await control.connect()
    control.provider.revocable = True
    connection = await control.connection()

    async def away(*_: object, **__: object) -> CredentialEnvelope:
        raise EnvelopeRefused(connection, KeyMissing("Master key m2 is not here.", kid="m2"))

    control.clock.forward(hours=1)
    with monkeypatch.context() as patch:
        patch.setattr(control.services.vault, "open_envelope", away)
        await revoked(control, connection)
    assert await pending(control) == 1
    assert control.provider.knows(old["refresh_token"])
    control.clock.forward(hours=1)
    await revoked(control, connection)
    assert await pending(control) == 0
    assert not control.provider.knows(old["refresh_token"])


class _Talkative(IntegrationAdapter):
    """A plugin's adapter that puts what it was given into its words."""

    async def on_disconnect(
        self, ctx: Context, envelope: CredentialEnvelope
    ) -> tuple[RevocationResult, ...]:
        token = envelope.secrets["refresh_token"].get_secret_value()
        if self.id == "raises":
            raise ProviderUnavailable(f"cannot end {token}")
        detail = f"cannot end {token}"
        return (RevocationResult(token="refresh_token", outcome="failed", detail=detail),)


@only_sqlite
@pytest.mark.parametrize("how", ["answers", "raises"])
async def test_a_plugins_words_are_searched_for_secrets(
    control: Control, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await control.connect()
    secret = (await control.secrets())["refresh_token"]
    providers = control.services.providers
    opened, ctx = providers.of(await control.connection())
    talkative = replace(opened, adapter=_Talkative(how))
    monkeypatch.setattr(providers, "made_by", lambda *_: (talkative, ctx))
    async with control.client(control.ada) as caller:
        answer = await caller.delete(PATH)
    assert "cannot end ***" in answer.text
    assert secret not in answer.text
    async with control.services.database.reading() as tx:
        entries = await tx.audit.entries(tenant_id=control.ada.tenant_id, limit=1000)
    assert secret not in repr(entries)
