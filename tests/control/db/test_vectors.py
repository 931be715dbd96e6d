"""The recorded vectors, through the control plane: what it opens, and what it believes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from aura_control.db.engine import Database
from aura_control.db.models import Agent, DeliveryOp, Instance
from aura_control.db.repositories.enrolment import JoinOutcome
from aura_control.services.enrolment import authenticate, hashed
from aura_control.services.keys import Vault
from aura_control.services.machines import acknowledge
from aura_core.crypto import Keyring
from aura_core.errors import EnvelopeError
from aura_core.wire import ControlKeys, parse_push, verify_join
from tests.control.db.world import Clock, World
from tests.vectors import generate

HERE = Path(generate.__file__).parent
ISSUED_AT = datetime.fromtimestamp(generate.ISSUED_AT / 1000, UTC)


def load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text())
    return document


async def test_what_is_stored_opens(database: Database) -> None:
    document = load("at_rest")
    vault = Vault(Keyring.parse(document["keyring"]), ControlKeys.generate())
    async with database.transaction() as tx:
        for tenant_id in sorted({case["identity"]["tenant_id"] for case in document["cases"]}):
            await tx.tenants.create(
                tenant_id=tenant_id,
                name="Tenant",
                kdf_salt=bytes.fromhex(document["salt"]),
                actor="system",
            )
        for case in document["cases"]:
            what = {**case["identity"], "stored": case["stored"]}
            opened = await vault.open_field(tx, **what)
            assert opened.encode().hex() == case["plaintext"]
            with pytest.raises(EnvelopeError):
                await vault.open_field(tx, **{**what, "revision": what["revision"] + 1})


@pytest.fixture
async def joined(database: Database, world: World, agent: Agent, clock: Clock) -> Instance:
    """The machine of the vectors, after its recorded join."""
    clock.now = ISSUED_AT
    request = verify_join(load("join")["request"].encode())
    async with database.transaction() as tx:
        instance = await tx.instances.create(
            tenant_id=world.tenant_id,
            agent_id=agent.id,
            compute="local",
            actor="system",
            instance_id=request.instance_id,
        )
        await tx.instances.issue_join_token(
            tenant_id=world.tenant_id,
            instance_id=instance.id,
            token_hash=hashed(request.join_token),
            expires_at=datetime(2027, 1, 1, tzinfo=UTC),
        )
        outcome = await tx.instances.record_join(
            instance_id=instance.id,
            token_hash=hashed(request.join_token),
            enc_public=request.enc_public,
            sig_public=request.sig_public,
            recipient_kid=request.recipient_kid,
            gateway_token="sealed",
        )
        assert outcome is JoinOutcome.JOINED
        return await tx.instances.get(tenant_id=world.tenant_id, instance_id=instance.id)


async def test_a_signed_request_is_believed(database: Database, joined: Instance) -> None:
    request = load("signed_by_machine")["request"]
    async with database.reading() as tx:
        sender = await authenticate(
            tx,
            headers=request["headers"],
            method=request["method"],
            path=request["path"],
            body=request["body"].encode(),
        )
    assert sender == joined.id


async def test_an_acknowledgement_counts(
    database: Database, world: World, joined: Instance
) -> None:
    message = next(
        case["message"].encode()
        for case in load("push")["cases"]
        if parse_push(case["message"].encode()).header.connection_id == "policy"
    )
    async with database.transaction() as tx:
        where: dict[str, Any] = {
            "tenant_id": world.tenant_id,
            "instance_id": joined.id,
            "subject": "policy",
        }
        revision = await tx.deliveries.desire(**where, op=DeliveryOp.PUT)
        assert revision == generate.REVISION
        assert await tx.deliveries.store_message(
            **where, revision=revision, message=message, digest=parse_push(message).digest
        )
        ack = load("signed_by_machine")["ack"]
        assert await acknowledge(tx, instance=joined, acks=[ack]) == ("policy",)
