"""What ``aura keys`` does to the keyring and the database. It imports both, so it is a module of
its own that commands import when they run."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aura_control.bootstrap import load_vault, open_database
from aura_control.cli.registry import open_registry
from aura_control.db.engine import Database
from aura_control.db.exclusive import alone
from aura_control.db.schema import require_current_schema
from aura_control.services import retirement
from aura_control.services.keys import Vault
from aura_control.services.ring import RingFile, write_secret
from aura_control.services.rotation import Progress, Rewrapped, Rotation
from aura_control.settings import Settings
from aura_core.crypto import Keyring, MasterKey
from aura_core.errors import ConfigurationError, Conflict
from aura_core.secret_stores import SecretStore, SecretStores, wraps

__all__ = ["Keys"]

_TAKEN = 10
"""Ids that are tried where a store has keys of them already."""


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The keyring and the database that it seals."""

    settings: Settings
    vault: Vault
    stores: SecretStores

    @classmethod
    def of(cls, settings: Settings) -> Keys:
        """Reads the keyring. It blocks, and raises ConfigurationError and what a store raises."""

        def stores() -> Mapping[str, SecretStore]:
            return open_registry(settings).secret_stores()

        return cls(
            settings=settings, vault=load_vault(settings, stores), stores=SecretStores(stores)
        )

    def alone(self) -> AbstractAsyncContextManager[None]:
        """One command at a time. Raises Conflict."""
        return alone(self.settings.database)

    async def unfinished(self) -> bool:
        """Whether an earlier rotation was interrupted."""
        await self.vault.reload()
        async with self._open() as database:
            return await retirement.unfinished(database, self.vault)

    def renew(self, *, store: str | None, prepare: bool, out: Path | None) -> str:
        """Writes a ring with a new key, or with the prepared one as the active key; its id.

        A new key is kept by its store, and read back from there, before the ring names it. Raises
        ConfigurationError and what the store raises; the ring is as it was then.
        """
        self._require_place(out)
        ring = self.vault.keyring
        kid = ring.successor
        if kid is None:
            new = self._made(ring.next_kid(), store)
            kid, ring = new.kid, ring.prepare(new)
        elif store is not None or prepare:
            raise ConfigurationError(
                f"Master key {kid} is prepared already.", hint="Activate it: aura keys rotate."
            )
        self._write(ring if prepare else ring.activate(kid), out)
        return kid

    async def rewrap(self, progress: Progress) -> Rewrapped:
        """Seals everything again under the active key of the ring as it is now."""
        await self.vault.reload()
        async with self._open() as database:
            return await Rotation(database=database, vault=self.vault, progress=progress).rewrap()

    async def status(self) -> Sequence[retirement.KeyStatus]:
        """All keys in the ring's order."""
        kept_in = "AURA_MASTER_KEYS" if self._file is None else str(self._file.path)
        async with self._open() as database, database.reading() as tx:
            return await retirement.key_status(tx, self.vault, kept_in=kept_in)

    async def retire(self, kid: str | None, *, out: Path | None) -> tuple[str, list[str]]:
        """Destroys a key in the ring; its id, and what is left for the operator to do."""
        self._require_place(out)
        await self.vault.reload()
        kid = kid or await self._oldest()
        async with self._open() as database:
            await retirement.retire(database, self.vault, kid)
        key = next(key for key in self.vault.keyring.keys if key.kid == kid)
        self._write(self.vault.keyring.destroy(kid), out)
        steps = [f"Destroy {kid} in backups and other copies of the keyring."]
        if out is not None:
            steps.insert(0, f"Set AURA_MASTER_KEYS to what is in {out}, and delete that file.")
        if key.reference is not None:
            steps.append(_left_in_store(kid, key.reference))
        return kid, steps

    async def _oldest(self) -> str:
        for one in await self.status():
            if one.retirable:
                return one.kid
        raise ConfigurationError("No master key can be retired.", hint="See why: aura keys status.")

    @property
    def _file(self) -> RingFile | None:
        if self.settings.master_keys is not None:
            return None
        return RingFile(self.settings.keyring_path, self.stores)

    def _require_place(self, out: Path | None) -> None:
        """Where the new ring goes is settled before anything is made or changed."""
        if self._file is None and out is None:
            raise ConfigurationError(
                "The keyring is in AURA_MASTER_KEYS, which no command can change.",
                hint="Name a new file for the new keyring: --out FILE.",
            )
        if self._file is not None and out is not None:
            raise ConfigurationError(
                f"The keyring is in {self._file.path}, which is changed itself.",
                hint="Leave out --out.",
            )
        if out is not None and os.path.lexists(out):
            raise ConfigurationError(f"{out} is there already.", hint="Name a new file.")

    def _made(self, kid: str, store: str | None) -> MasterKey:
        """A new key, kept by its store. A store that has another key of that id keeps it: it may
        be what an interrupted rotation left there, or what somebody laid out, and is never used.
        """
        material = os.urandom(32)
        if store is None:
            return MasterKey(kid=kid, material=material, state="decrypt_only")
        for number in range(int(kid[1:]), int(kid[1:]) + _TAKEN):
            kid = f"m{number}"
            try:
                reference = self.stores.keep(store, kid=kid, material=material)
            except Conflict as conflict:
                taken = conflict
                continue
            return MasterKey(kid=kid, material=material, state="decrypt_only", reference=reference)
        raise taken

    def _write(self, ring: Keyring, out: Path | None) -> None:
        file = self._file
        if file is not None:
            file.write(ring)
        elif out is not None:
            write_secret(out, ring.dump().encode())

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Database]:
        await require_current_schema(self.settings.database)
        database = open_database(self.settings, self.vault)
        try:
            yield database
        finally:
            await database.close()


def _left_in_store(kid: str, reference: str) -> str:
    place = reference.partition("#")[0]
    if wraps(reference):
        # The store has nothing of it, and its own key wraps others, too: nobody should read here
        # that this one is to be destroyed.
        return f"Keep the key of {place}: it only wrapped {kid}, and may wrap others."
    return f"Remove {kid} from its store, in each version that is kept there: {place}."
