"""How many values a key has sealed is known to all processes, at any time, and bounded."""

from __future__ import annotations

import pytest

from aura_control.bootstrap import load_vault
from aura_control.services.keys import Vault
from aura_core.crypto import NONCE_LIMIT
from aura_core.errors import ConfigurationError, KeyMissing
from tests.control.keys.sealed_world import SealedWorld


async def seal(world: SealedWorld, vault: Vault | None = None, *, times: int = 1) -> None:
    owner = world.owners[0]
    async with world.database.transaction() as tx:
        for _ in range(times):
            await (vault or world.vault).seal_field(tx, owner.tenant_id, "c", "f", 1, "text")


async def uses(world: SealedWorld) -> int:
    async with world.database.reading() as tx:
        return (await tx.tenants.keys(world.owners[0].tenant_id))["m1"].uses


async def test_the_count_is_never_less_than_what_was_sealed(world: SealedWorld) -> None:
    before = await uses(world)
    assert before >= 8  # six tokens, a gateway token and a verifier
    sealed = 0
    for times in (1, 5, 30, 200, 1, 100, 1):
        await seal(world, times=times)
        sealed += times
        now = await uses(world)
        assert sealed + 8 <= now
    assert now <= 2 * sealed + 1000  # and not much more


async def test_most_seals_write_nothing(world: SealedWorld) -> None:
    await seal(world, times=150)
    seen = {await uses(world)}
    for _ in range(20):
        await seal(world)
        seen.add(await uses(world))
    assert len(seen) <= 2


async def test_several_processes_add_up(world: SealedWorld) -> None:
    others = [load_vault(world.settings) for _ in range(3)]
    before = await uses(world)
    for _ in range(20):
        for other in others:
            await seal(world, other)
    assert await uses(world) >= before + 60


async def test_what_was_rolled_back_is_not_spent_later(world: SealedWorld) -> None:
    fresh = load_vault(world.settings)
    before = await uses(world)

    async def seal_and_break() -> None:
        async with world.database.transaction() as tx:
            await fresh.seal_field(tx, world.owners[0].tenant_id, "c", "f", 1, "text")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await seal_and_break()
    assert await uses(world) == before
    await seal(world, fresh)
    assert await uses(world) > before


async def test_a_key_that_is_used_up_seals_no_more(world: SealedWorld) -> None:
    fresh = load_vault(world.settings)
    await world.change("UPDATE tenant_keys SET uses = :uses", uses=NONCE_LIMIT)
    with pytest.raises(ConfigurationError, match="2\\^30") as caught:
        await seal(world, fresh)
    assert caught.value.hint == "Rotate the master key: aura keys rotate."
    await world.rotated()
    await seal(world)


async def test_another_commitment_than_the_recorded_one_seals_nothing(world: SealedWorld) -> None:
    await world.change("UPDATE tenant_keys SET commitment = :wrong", wrong=b"w" * 32)
    with pytest.raises(KeyMissing, match="not the one that was recorded"):
        await seal(world)
