"""Sealing again under a new master key: the cryptography by itself, and through the database.

By itself the limit is the bare primitive: AES-256-GCM, one decryption and one encryption of the
same bytes with keys at hand. Through the database (SQLite, in batches of 200 connections with two
tokens each) there are two: the same batches read and written back by bare statements, which is what
any change of every row takes; and that with the bare primitive. Aura adds the strict reading of
envelopes, the comparison of digests, and an audit entry in the tenant's chain for each connection.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import bindparam, text

from aura_control.bootstrap import add_user
from aura_control.db.columns import new_id
from aura_control.db.connection import Grant, SealedTokens
from aura_control.db.engine import Database
from aura_control.db.schema import migrate
from aura_control.services.audit_keys import AuditKeys
from aura_control.services.keys import Vault
from aura_control.services.rotation import Rotation
from aura_core.crypto import Identity, Keyring
from aura_core.wire import ControlKeys
from benchmarks.measuring import Effort, Figure, by_turns, by_turns_async, figure, milliseconds

__all__ = ["measure"]

_TOKEN = b'{"access_token": "' + b"x" * 200 + b'"}'
_BATCH = 200


def measure(effort: Effort) -> Sequence[Figure]:
    """Milliseconds for one value, and for one connection with two."""
    return [_cryptography(effort), *asyncio.run(_database(effort))]


def _cryptography(effort: Effort) -> Figure:
    identity = Identity(tenant_id=new_id(), connection_id=new_id(), field="f", revision=1)
    ring, salt = Keyring.generate(), os.urandom(32)
    stored = ring.tenant(identity.tenant_id, salt).seal(_TOKEN, identity)
    keys = ring.rotate().tenant(identity.tenant_id, salt)
    calls = 20 * effort.calls
    aura, bare = by_turns(
        effort.rounds,
        milliseconds(lambda: keys.rewrap(stored, identity), calls=calls),
        milliseconds(_Primitive(), calls=calls),
    )
    return figure(
        "one value, cryptography alone",
        limit="bare AES-256-GCM, decrypt and encrypt",
        unit="ms",
        aura=aura,
        bare=bare,
    )


class _Primitive:
    """One decryption and one encryption by the library alone."""

    def __init__(self) -> None:
        self.old, self.new = (AESGCM(AESGCM.generate_key(256)) for _ in range(2))
        self.iv, self.aad = os.urandom(12), os.urandom(120)
        self.sealed = self.old.encrypt(self.iv, _TOKEN, self.aad)

    def __call__(self) -> None:
        self.new.encrypt(os.urandom(12), self.old.decrypt(self.iv, self.sealed, self.aad), self.aad)


async def _database(effort: Effort) -> Sequence[Figure]:
    rows = max(_BATCH, 10 * effort.calls)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'aura.db'}"
        await migrate(url)
        subject = _Subject(url, rows)
        try:
            await subject.fill()
            aura, bare, both = await by_turns_async(
                effort.rounds, subject.rewrap, subject.write, subject.write_and_seal
            )
        finally:
            await subject.database.close()
    return [
        figure(
            "one connection, in the database",
            limit="bare SELECT and UPDATE, same batches",
            unit="ms",
            aura=aura,
            bare=bare,
        ),
        figure(
            "the same, with the primitive",
            limit="that, two decryptions, two encryptions",
            unit="ms",
            aura=aura,
            bare=both,
        ),
    ]


class _Subject:
    """A database full of connections of one tenant. Each round rotates once more."""

    def __init__(self, url: str, rows: int) -> None:
        self.rows = rows
        self.ring = Keyring.generate()
        self.signing = ControlKeys.generate()
        self.vault = Vault(self.ring, self.signing)
        self.database = Database.open(url, audit_key=AuditKeys(lambda: self.vault.keyring))

    async def fill(self) -> None:
        owner = await add_user(self.database, tenant_name="t", email="t@example.org")
        for first in range(0, self.rows, _BATCH):
            async with self.database.transaction() as tx:
                for number in range(first, min(first + _BATCH, self.rows)):
                    who = {"tenant_id": owner.tenant_id, "user_id": owner.user_id}
                    slot = await tx.integrations.reserve(**who, provider=f"p{number}")
                    sealed = [
                        await self.vault.seal_field(
                            tx,
                            owner.tenant_id,
                            slot.connection_id,
                            part,
                            slot.revision,
                            _TOKEN.decode(),
                        )
                        for part in ("access_token", "refresh_token")
                    ]
                    grant = Grant(
                        tokens=SealedTokens(access_token=sealed[0], refresh_token=sealed[1]),
                        token_expiry=tx.now + timedelta(days=1),
                        scopes=(),
                        auth_method="oauth2",
                    )
                    await tx.integrations.upsert_connected(
                        **who, provider=f"p{number}", slot=slot, grant=grant, actor="system"
                    )

    async def rewrap(self) -> float:
        ring = self.ring.rotate()
        for key in self.ring.keys:
            if key.state == "decrypt_only":
                ring = ring.destroy(key.kid)
        self.vault = Vault(ring, self.signing)
        self.ring = ring
        rotation = Rotation(database=self.database, vault=self.vault, pause=_at_once, batch=_BATCH)
        began = time.perf_counter_ns()
        done = await rotation.rewrap()
        took = time.perf_counter_ns() - began
        assert done.rows == {"connections": self.rows, "audit_keys": 1}
        return took / self.rows / 1e6

    async def write(self) -> float:
        return await self._bare(lambda: None)

    async def write_and_seal(self) -> float:
        primitive = _Primitive()

        def twice() -> None:
            primitive()
            primitive()

        return await self._bare(twice)

    async def _bare(self, work: Callable[[], None]) -> float:
        select = text(
            "SELECT id, access_token, refresh_token FROM integrations"
            " WHERE id > :after ORDER BY id LIMIT :limit"
        )
        update = text(
            "UPDATE integrations SET access_token = :a, refresh_token = :r WHERE id = :id"
        ).bindparams(bindparam("a"), bindparam("r"), bindparam("id"))
        began, after = time.perf_counter_ns(), ""
        while True:
            async with self.database.transaction() as tx:
                connection = await tx.session.connection()
                page = await connection.execute(select, {"after": after, "limit": _BATCH})
                found = page.all()
                for _ in found:
                    work()
                if found:
                    rows = [{"id": row[0], "a": row[1], "r": row[2]} for row in found]
                    await connection.execute(update, rows)
            if not found:
                return (time.perf_counter_ns() - began) / self.rows / 1e6
            after = found[-1][0]


async def _at_once(_seconds: float) -> None:
    await asyncio.sleep(0)
