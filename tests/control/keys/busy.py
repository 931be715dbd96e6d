"""``python -m tests.control.keys.busy PROVIDER``: a process that goes on using the keys.

It seals its own connection and opens everybody's of one tenant until its standard input ends, and
answers how often it did both. What it does not manage ends it with a traceback.
"""

from __future__ import annotations

import asyncio
import sys

from aura_control.bootstrap import Owner, load_vault, open_database
from aura_control.settings import load_settings
from tests.control.keys.sealed_world import connect


async def use(provider: str) -> int:
    settings = load_settings()
    vault = load_vault(settings)
    database = open_database(settings, vault)
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    watching = asyncio.create_task(vault.watch())
    rounds = 0
    try:
        async with database.reading() as tx:
            tenant = (await tx.tenants.list())[0]
            user = await tx.users.by_email("ada@example.org")
            assert user is not None
        owner = Owner(tenant_id=tenant.id, user_id=user.id, email=user.email, token="")
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while not ended.done():
            async with database.transaction() as tx:
                await connect(tx, vault, owner, provider)
            async with database.reading() as tx:
                found = await tx.integrations.list(tenant_id=tenant.id, user_id=user.id)
                for connection in found:
                    await vault.open_envelope(tx, connection, renewing=True)
            rounds += 1
    finally:
        vault.close()
        await watching
        await database.close()
    return rounds


if __name__ == "__main__":
    sys.stdout.write(str(asyncio.run(use(sys.argv[1]))))
