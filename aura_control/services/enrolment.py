"""How a machine becomes known, and how its later requests are known to be its own."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from pydantic import SecretStr

from aura_control.db.columns import milliseconds
from aura_control.db.models import Instance
from aura_control.db.models import InstanceState as S
from aura_control.db.repositories.enrolment import JoinOutcome
from aura_control.db.transaction import Transaction
from aura_control.services.keys import Vault
from aura_core.crypto import Identity, TenantKeys
from aura_core.encoding import b64url
from aura_core.errors import EnvelopeError, KeyMissing, PermissionDenied, SignatureInvalid
from aura_core.wire import (
    JoinAnswer,
    claimed_instance,
    seal_join_answer,
    verify_join,
    verify_request,
)

if TYPE_CHECKING:
    from aura_control.composition import Services

__all__ = [
    "DESTROY",
    "PROGRESS",
    "PROVISION",
    "admitted",
    "authenticate",
    "destroy_id",
    "hashed",
    "join",
    "join_token",
    "open_gateway_token",
    "open_gateway_tokens",
    "provision_id",
]

PROVISION = "provision"
DESTROY = "destroy"
"""The workflows of an instance's life, by name."""

PROGRESS = "progress"
"""The topic on which a machine's progress is told to the workflow that waits for it."""

_GATEWAY_TOKEN = "gateway_token"
_JOIN_LABEL = "aura/join-token/v1"
_GONE = (S.FAILED, S.DESTROYING, S.DESTROYED)


def provision_id(instance_id: str) -> str:
    """The id of the workflow that provisions an instance."""
    return f"{PROVISION}-{instance_id}"


def destroy_id(instance_id: str) -> str:
    """The id of the workflow that destroys an instance."""
    return f"{DESTROY}-{instance_id}"


def join_token(vault: Vault, instance_id: str) -> str:
    """The instance's join token: 256 bits, derived and never stored.

    Composing the user-data again, after a crash, must give the same bytes: the machine that an
    earlier, lost request made has them already. A stored token would have to be stored readable,
    in the database or in a workflow's journal.
    """
    key = vault.derive(_JOIN_LABEL)
    return b64url(hmac.new(key, instance_id.encode(), hashlib.sha256).digest())


def hashed(token: str) -> str:
    """SHA-256 of a token (hexadecimal): what the database knows of it."""
    return hashlib.sha256(token.encode()).hexdigest()


async def open_gateway_token(vault: Vault, tx: Transaction, instance: Instance) -> SecretStr:
    """The bearer token that the machine's daemon expects. Raises EnvelopeError."""
    text = await vault.open_field(
        tx, instance.tenant_id, instance.id, _GATEWAY_TOKEN, 0, instance.gateway_token or ""
    )
    return SecretStr(text)


async def open_gateway_tokens(
    vault: Vault, tx: Transaction, instances: Collection[Instance]
) -> Mapping[str, SecretStr | EnvelopeError]:
    """:func:`open_gateway_token` for the machines that have one, by instance; what it raises is
    answered in its place."""
    found: dict[str, SecretStr | EnvelopeError] = {}
    keys: dict[str, TenantKeys] = {}
    for instance in instances:
        if instance.gateway_token is None:
            continue
        tenant_id = instance.tenant_id
        try:
            if tenant_id not in keys:
                keys[tenant_id] = await vault.opening(tx, tenant_id)
            identity = Identity(
                tenant_id=tenant_id, connection_id=instance.id, field=_GATEWAY_TOKEN, revision=0
            )
            opened = keys[tenant_id].open(instance.gateway_token, identity)
            found[instance.id] = SecretStr(opened.decode())
        except KeyMissing:
            found[instance.id] = await _opened_alone(vault, tx, instance)
        except EnvelopeError as error:
            found[instance.id] = error
    return found


async def _opened_alone(
    vault: Vault, tx: Transaction, instance: Instance
) -> SecretStr | EnvelopeError:
    """Another process may seal under a key that is newer than what this one has read: the vault
    looks for it."""
    try:
        return await open_gateway_token(vault, tx, instance)
    except EnvelopeError as error:
        return error


async def join(services: Services, raw: bytes) -> bytes:
    """Answers a machine's join request (``aura_core.wire``).

    Raises WireError for a request that is not one, and PermissionDenied for every other refusal
    in the same words: whoever tries tokens or ids learns nothing.
    """
    request = verify_join(raw)
    token_hash = hashed(request.join_token)
    async with services.database.reading() as tx:  # strangers do not get to hold up writers
        await _expected(tx, request.instance_id, token_hash)
    async with services.database.transaction() as tx:
        instance = await _expected(tx, request.instance_id, token_hash)
        token = secrets.token_urlsafe(32)
        outcome = await tx.instances.record_join(
            instance_id=instance.id,
            token_hash=token_hash,
            enc_public=request.enc_public,
            sig_public=request.sig_public,
            recipient_kid=request.recipient_kid,
            gateway_token=await services.vault.seal_field(
                tx, instance.tenant_id, instance.id, _GATEWAY_TOKEN, 0, token
            ),
        )
        if outcome is JoinOutcome.REPEATED:
            token = (await open_gateway_token(services.vault, tx, instance)).get_secret_value()
    # Outside the transaction, so that a quarantine is committed before it is answered. Either way
    # the workflow that waits for the machine should look.
    await services.workflows.send(provision_id(instance.id), PROGRESS, outcome.value)
    if outcome not in (JoinOutcome.JOINED, JoinOutcome.REPEATED):
        raise _refused()
    services.deliverer.wake()
    answer = JoinAnswer(gateway_token=token, heartbeat_seconds=services.settings.heartbeat_seconds)
    return seal_join_answer(answer, request=request, signer=services.vault.signing)


async def authenticate(
    tx: Transaction, *, headers: Mapping[str, str], method: str, path: str, body: bytes
) -> str:
    """The id of the instance that signed the request.

    Raises SignatureInvalid for a request that is not signed by the machine it names, and
    PermissionDenied for a machine that is quarantined or should be gone.
    """
    instance = await tx.instances.by_id_for_vm(claimed_instance(headers))
    if instance is None or instance.sig_public is None:
        raise SignatureInvalid("The request is not signed by a machine that is known here.")
    verify_request(headers, method, path, body, instance.sig_public, milliseconds(tx.now))
    return (await admitted(tx, instance.id)).id


async def admitted(tx: Transaction, instance_id: str) -> Instance:
    """The instance, as long as its machine may take part. Raises PermissionDenied."""
    instance = await tx.instances.by_id_for_vm(instance_id)
    if instance is None:
        raise PermissionDenied("There is no such instance.", rule="instance:gone")
    if instance.quarantined_reason is not None:
        raise PermissionDenied(
            "This machine is quarantined.",
            rule="instance:quarantined",
            hint="Its owner finds the reason in the agent's events.",
        )
    if instance.state in _GONE:
        raise PermissionDenied(
            f"This machine's instance is {instance.state.value}.", rule="instance:gone"
        )
    return instance


async def _expected(tx: Transaction, instance_id: str, token_hash: str) -> Instance:
    instance = await tx.instances.by_id_for_vm(instance_id)
    known = "" if instance is None else instance.join_token_hash or ""
    if not hmac.compare_digest(known, token_hash) or instance is None or instance.state in _GONE:
        raise _refused()
    return instance


def _refused() -> PermissionDenied:
    return PermissionDenied(
        "The join token is not valid for this instance, or not any more.",
        rule="instance:join",
        hint="A machine joins once; provision a new one.",
    )
