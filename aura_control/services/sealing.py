"""Making the message of one delivery: its plaintext, sealed to the machine and signed.

The message of a revision is made once and stored. Sealing is randomised, so making it again would
give another digest, which the machine rightly takes for a forgery.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from aura_control.db.columns import milliseconds
from aura_control.db.connection import Connection
from aura_control.db.models import ConnectionState, Delivery, DeliveryOp, Instance
from aura_control.db.outbox import Key, Sealed
from aura_control.db.transaction import Transaction
from aura_control.services.delivery import (
    POLICY,
    SKILL_PREFIX,
    Skill,
    reconcile_skills,
    skill_fingerprint,
)
from aura_control.services.keys import Vault
from aura_control.services.providers import Providers
from aura_control.services.skills import Skills
from aura_control.services.surroundings import Surroundings
from aura_core.errors import WireError
from aura_core.permissions import AgentPermissions
from aura_core.skills import pack_skills
from aura_core.wire import PushHeader, push_digest, seal_push

__all__ = ["Sealer"]


@dataclass(frozen=True, kw_only=True)
class _Plain:
    """What is to be sealed to one machine."""

    row: Delivery
    instance: Instance
    enc_public: bytes
    recipient_kid: str
    plaintext: bytes


class Sealer:
    """Makes messages. Every call works in the caller's transaction."""

    def __init__(
        self,
        *,
        vault: Vault,
        providers: Providers,
        skills: Skills,
    ) -> None:
        self._vault = vault
        self._providers = providers
        self._skills = skills

    async def sealed(self, tx: Transaction, *, instance: Instance, subject: str) -> Delivery | None:
        """The delivery with its message, made now if there is none.

        None: there is nothing to send any more, or the machine has not joined. Raises
        ``EnvelopeError`` for a credential that does not open, ``MessageTooLarge`` for a skill that
        does not fit in a message, and ``PluginError``.
        """
        row = await tx.deliveries.get(
            tenant_id=instance.tenant_id, instance_id=instance.id, subject=subject
        )
        if row is None:
            return None
        (result,) = await self.sealed_all(tx, [(row, instance)])
        if isinstance(result, Exception):
            raise result
        return result

    async def sealed_all(
        self, tx: Transaction, rows: Sequence[tuple[Delivery, Instance]]
    ) -> Sequence[Delivery | Exception | None]:
        """:meth:`sealed` for many, in order: one credential is opened once for all its machines.

        What :meth:`sealed` raises is answered in its place: what does not seal keeps nothing else
        from being sealed.
        """
        results: dict[Key, Delivery | Exception | None] = {}
        missing = []
        for row, instance in rows:
            joined = instance.enc_public is not None and instance.recipient_kid is not None
            results[_key(row)] = row if joined and row.message is not None else None
            if joined and row.message is None:
                missing.append((row, instance))
        if missing:
            bench = _Bench(
                vault=self._vault,
                providers=self._providers,
                skills=self._skills,
                surroundings=await Surroundings.read(
                    tx, [instance for _, instance in missing], deliveries=True
                ),
            )
            plains = []
            for row, instance in missing:
                try:
                    plains.append(await self._plain(tx, bench, row, instance))
                except SQLAlchemyError:
                    raise  # the transaction is lost, and with it all of them
                except Exception as error:  # noqa: BLE001 - a plugin's code may raise anything
                    results[_key(row)] = error
            results |= await self._seal(tx, [plain for plain in plains if plain is not None])
        return [results[_key(row)] for row, _ in rows]

    async def _plain(
        self, tx: Transaction, bench: _Bench, row: Delivery, instance: Instance
    ) -> _Plain | None:
        if instance.enc_public is None or instance.recipient_kid is None:
            return None
        plaintext = await bench.plaintext(tx, instance, row)
        if plaintext is None:
            # Nothing of it may be on the machine: that is a wish of its own, with its revision.
            await tx.deliveries.desire(
                tenant_id=instance.tenant_id,
                instance_id=instance.id,
                subject=row.subject,
                op=DeliveryOp.DELETE,
                source_revision=row.source_revision,
            )
            row, plaintext = (await tx.deliveries.at([_key(row)]))[_key(row)], b""
        return _Plain(
            row=row,
            instance=instance,
            enc_public=instance.enc_public,
            recipient_kid=instance.recipient_kid,
            plaintext=plaintext,
        )

    async def _seal(
        self, tx: Transaction, plains: Sequence[_Plain]
    ) -> Mapping[Key, Delivery | Exception | None]:
        """Seals, keeps, and answers the rows as they are then: where another process stored its
        message first, that one counts."""
        results: dict[Key, Delivery | Exception | None] = {}
        messages = []
        for plain in plains:
            try:
                messages.append(self._message(plain, issued_at=milliseconds(tx.now)))
            except WireError as error:
                results[_key(plain.row)] = error
        await tx.deliveries.store_messages(messages)
        results |= await tx.deliveries.at([one.key for one in messages])
        return results

    def _message(self, plain: _Plain, *, issued_at: int) -> Sealed:
        header = PushHeader(
            instance_id=plain.instance.id,
            recipient_kid=plain.recipient_kid,
            connection_id=plain.row.subject,
            op=plain.row.op.value,
            revision=plain.row.desired_revision,
            issued_at=issued_at,
            signer_kid=self._vault.signing.signer_kid,
        )
        message = seal_push(
            header,
            plain.plaintext,
            recipient_public=plain.enc_public,
            signer=self._vault.signing,
        )
        return Sealed(
            key=_key(plain.row),
            revision=plain.row.desired_revision,
            message=message,
            digest=push_digest(message),
        )


class _Bench:
    """Makes the plaintexts of some machines, each thing that they share once."""

    def __init__(
        self, *, vault: Vault, providers: Providers, skills: Skills, surroundings: Surroundings
    ) -> None:
        self._vault = vault
        self._providers = providers
        self._skills = skills
        self._surroundings = surroundings
        self._payloads: dict[str, bytes | None] = {}
        self._reconciled: set[str] = set()

    async def plaintext(self, tx: Transaction, instance: Instance, row: Delivery) -> bytes | None:
        """What the machine should hold; empty for a deletion, None when there is nothing."""
        if row.op is DeliveryOp.DELETE:
            return b""
        if row.subject == POLICY:
            permissions = self._surroundings.agent(instance).permissions
            return AgentPermissions.model_validate(permissions).model_dump_json().encode()
        if row.subject.startswith(SKILL_PREFIX):
            return await self._skill(instance, row)
        return await self._credential(tx, instance, row)

    async def _skill(self, instance: Instance, row: Delivery) -> bytes | None:
        folder = row.subject.removeprefix(SKILL_PREFIX)
        skill = (await self._wanted(instance)).get(folder)
        if skill is None or skill_fingerprint(skill.digest) != row.source_revision:
            return None
        archive = b64encode(pack_skills([skill.manifest])).decode()
        return json.dumps({"kind": "skill", "dir": folder, "archive": archive}).encode()

    async def _credential(self, tx: Transaction, instance: Instance, row: Delivery) -> bytes | None:
        connection = self._surroundings.connection(instance, row.subject)
        if connection is None or connection.state is ConnectionState.DISCONNECTED:
            return None
        if instance.last_heartbeat_at is not None and instance.id not in self._reconciled:
            # A new connection brings its skill. A machine that was not heard of yet has most of
            # its skills from the user-data; what it lacks shows at its first heartbeat.
            self._reconciled.add(instance.id)
            await reconcile_skills(
                tx,
                instance=instance,
                wanted=await self._wanted(instance),
                observed=instance.health.get("skills", {}),
                rows=self._surroundings.deliveries[instance.id],
            )
        if connection.id not in self._payloads:
            self._payloads[connection.id] = await self._payload(tx, connection)
        return self._payloads[connection.id]

    async def _wanted(self, instance: Instance) -> Mapping[str, Skill]:
        return await self._skills.among(self._surroundings.used_by(instance))

    async def _payload(self, tx: Transaction, connection: Connection) -> bytes | None:
        opened, context = self._providers.of(connection)
        envelope = await self._vault.open_envelope(tx, connection)
        payload = opened.adapter.build_vm_credential_payload(
            context, envelope, connection_revision=connection.revision
        )
        return None if payload is None else payload.model_dump_json().encode()


def _key(row: Delivery) -> Key:
    return Key(row.instance_id, row.subject)
