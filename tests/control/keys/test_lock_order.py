"""Who seals a connection again and who renews it take their rows in one order."""

from __future__ import annotations

import asyncio

import httpx
from pydantic import SecretStr
from sqlalchemy import text

from aura_control.bootstrap import load_vault
from aura_control.clients.registered import RegisteredClients
from aura_control.db.columns import utc_now
from aura_control.services.providers import Providers
from aura_control.services.renewed import RenewedTokens
from aura_core.adapter import TokenRefresh
from aura_core.manifest import load_manifest
from aura_core.registry import Registry
from tests.control.keys.sealed_world import SealedWorld

_MANIFEST = b"""
id = "mail"
name = "Mail"
category = "testing"
hosts = ["api.mail.example"]
[api]
base_url = "https://api.mail.example"
[[auth]]
strategy = "oauth2"
[auth.client]
id_env = "MAIL_CLIENT_ID"
[auth.authorization]
url = "https://api.mail.example/authorize"
[auth.token]
url = "https://api.mail.example/token"
auth = "none"
[auth.verify]
url = "https://api.mail.example/me"
"""


async def until_one_waits(world: SealedWorld) -> None:
    query = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    async with asyncio.timeout(30):
        while True:
            async with world.database.reading() as tx:
                if (await tx.session.execute(query)).scalar_one():
                    return
            await asyncio.sleep(0.02)


async def test_new_tokens_take_the_connection_before_the_key(world: SealedWorld) -> None:
    if world.database.dialect == "sqlite":
        return  # it has one writer
    await world.rotated()  # nobody has reserved any seals of the new key
    before = (await world.connections())[0]
    retried: list[float] = []

    async def pause(seconds: float) -> None:
        retried.append(seconds)

    async with httpx.AsyncClient() as http:
        storing = RenewedTokens(
            database=world.database,
            vault=load_vault(world.settings),
            providers=Providers(
                registry=Registry.discover(entry_points=()),
                http=http,
                clients=RegisteredClients({}),
                clock=utc_now,
            ),
            pause=pause,
        )
        async with world.database.reading() as tx:
            envelope = await world.vault.open_envelope(tx, before, renewing=True)
        async with world.database.transaction() as tx:  # as a batch of a rotation
            await tx.sealed.connections(["m2"], under=False)
            renewing = asyncio.create_task(
                storing.store(
                    before,
                    load_manifest(_MANIFEST).auth[0],
                    envelope,
                    TokenRefresh(access_token=SecretStr("access-2"), token_expiry=None),
                )
            )
            await until_one_waits(world)
            await world.vault.sealing(tx, before.tenant_id)
        assert (await renewing).revision > before.revision
    assert retried == []
