"""Connections over HTTP: by key, listed, validated, ended with a receipt."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import update

from aura_control.db.models import ConnectionState, DeliveryOp, Instance
from aura_control.services.delivery import desire_all
from tests.control.connections.conftest import Control
from tests.control.connections.provider import answers, unreachable


async def connect_by_key(control: Control, body: Any) -> tuple[int, dict[str, Any]]:
    async with control.client(control.ada) as caller:
        answer = await caller.post("/api/integrations/keyed", json=body)
    return answer.status_code, answer.json()


@pytest.mark.parametrize("body", [{"fields": {"api_key": "key-of-ada"}}, {"api_key": "key-of-ada"}])
async def test_a_key_connects_once_the_provider_accepts_it(
    control: Control, body: dict[str, Any]
) -> None:
    status, line = await connect_by_key(control, body)
    assert status == 201
    assert (line["provider"], line["state"]) == ("keyed", "connected")
    assert line["metadata"] == {"email": "ada"}
    assert control.provider.count("/me") == 1
    assert (await control.secrets("keyed"))["api_key"] == "key-of-ada"


async def test_a_wrong_key_is_refused_and_nothing_is_stored(control: Control) -> None:
    status, problem = await connect_by_key(control, {"fields": {"api_key": "key-of-nobody"}})
    assert status == 422
    assert "key-of-nobody" not in json.dumps(problem)
    assert await control.listed() == []


async def test_a_provider_that_is_away_is_no_wrong_key(control: Control) -> None:
    control.provider.faults.append(unreachable)
    status, problem = await connect_by_key(control, {"fields": {"api_key": "key-of-ada"}})
    assert (status, problem["type"]) == (502, "urn:aura:problem:provider-unavailable")
    assert await control.listed() == []


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"api_key": ""},
        {"api_key": "x" * 65},
        {"api_key": "a\r\nX-Evil: 1"},
        {"api_key": "\x80"},
        {"other": "x"},
    ],
)
async def test_fields_are_checked_before_the_provider_is_asked(
    control: Control, fields: dict[str, str]
) -> None:
    status, problem = await connect_by_key(control, {"fields": fields})
    assert status == 422
    assert problem["fields"]
    assert control.provider.calls == []


async def test_no_answer_holds_a_secret(control: Control) -> None:
    await control.connect()
    await connect_by_key(control, {"fields": {"api_key": "key-of-ada"}})
    hidden = {*(await control.secrets()).values(), "key-of-ada"}
    tokens = (await control.connection()).envelope()
    hidden |= {str(tokens.access_token), str(tokens.refresh_token)}
    async with control.client(control.ada) as caller:
        for path in ("/api/integrations", "/api/providers"):
            text = (await caller.get(path)).text
            assert all(value not in text for value in hidden)
        answer = await caller.delete("/api/integrations/acme")
        assert all(value not in answer.text for value in hidden)


async def test_validating_asks_the_provider(control: Control) -> None:
    await control.connect()
    async with control.client(control.ada) as caller:
        good = await caller.post("/api/integrations/acme/validate")
        assert good.json() == {"valid": True, "reason": None}
        control.provider.forget_grants()
        bad = await caller.post("/api/integrations/acme/validate")
        assert bad.json()["valid"] is False
        again = await caller.post("/api/integrations/acme/validate")
        assert again.json()["valid"] is False
    (line,) = await control.listed()
    assert line["state"] == "reauth_required"


async def test_disconnecting_revokes_and_forgets(control: Control) -> None:
    await control.connect()
    secrets = await control.secrets()
    async with control.client(control.ada) as caller:
        answer = await caller.delete("/api/integrations/acme")
        receipt = answer.json()
        assert answer.status_code == 200
        assert {line["outcome"] for line in receipt["tokens"]} == {"revoked"}
        assert not any(control.provider.knows(token) for token in secrets.values())
        connection = await control.connection()
        assert connection.state is ConnectionState.DISCONNECTED
        assert connection.envelope().access_token is None
        calls = control.provider.count("/revoke")
        again = await caller.delete("/api/integrations/acme")
        assert again.json() == receipt
        assert control.provider.count("/revoke") == calls
        (line,) = (await caller.get("/api/integrations")).json()["integrations"]
        assert line["receipt"] == receipt


async def test_a_provider_that_is_away_keeps_nobody_connected(control: Control) -> None:
    await control.connect()
    control.provider.revocable = False
    async with control.client(control.ada) as caller:
        receipt = (await caller.delete("/api/integrations/acme")).json()
    assert "failed" in {line["outcome"] for line in receipt["tokens"]}
    assert (await control.connection()).envelope().access_token is None


async def machine(control: Control) -> Instance:
    """An agent of Ada's that may use everything, with its instance, whose machine has joined."""
    async with control.services.database.transaction() as tx:
        agent = await tx.agents.create(
            tenant_id=control.ada.tenant_id,
            user_id=control.ada.user_id,
            name="Helper",
            compute="local",
            runtime="basic",
            persona={},
            permissions={},
            config={"every_integration": True},
            actor="system",
        )
        made = await tx.instances.create(
            tenant_id=control.ada.tenant_id, agent_id=agent.id, compute="local", actor="system"
        )
        await tx.session.execute(update(Instance).values(join_used_at=tx.now))
        return made


async def test_machines_are_told_and_the_receipt_follows_them(control: Control) -> None:
    instance = await machine(control)
    await control.connect()
    connection = await control.connection()
    names = {
        "tenant_id": control.ada.tenant_id,
        "instance_id": instance.id,
        "subject": connection.id,
    }
    async with control.services.database.reading() as tx:
        wanted = await tx.deliveries.get(**names)
    assert wanted is not None
    assert (wanted.op, wanted.source_revision) == (DeliveryOp.PUT, connection.revision)

    async with control.client(control.ada) as caller:
        (line,) = (await caller.get("/api/integrations")).json()["integrations"]
        assert line["renews_at"] < line["token_expiry"]
        assert line["machines"] == [
            {
                "instance_id": instance.id,
                "agent_id": instance.agent_id,
                "state": "pending",
                "desired_revision": wanted.desired_revision,
                "acked_revision": None,
                "acked_at": None,
                "attempts": 0,
                "last_error": None,
            }
        ]
        receipt = (await caller.delete("/api/integrations/acme")).json()
        assert [line["state"] for line in receipt["machines"]] == ["pending"]
        async with control.services.database.transaction() as tx:
            row = await tx.deliveries.get(**names)
            assert row is not None
            assert row.op is DeliveryOp.DELETE
            await tx.deliveries.store_message(
                **names, revision=row.desired_revision, message=b"sealed", digest="d"
            )
            await tx.deliveries.acked(**names, revision=row.desired_revision, digest="d")
        (line,) = (await caller.get("/api/integrations")).json()["integrations"]
    assert [one["state"] for one in line["machines"]] == ["wiped"]
    assert line["renews_at"] is None
    (told,) = line["receipt"]["machines"]
    assert told["instance_id"] == instance.id
    assert told["state"] == "wiped"
    assert told["acked_at"]


async def test_what_no_machine_can_use_is_never_wanted_there(control: Control) -> None:
    """Without a skill nothing on a machine uses the credential: neither when it is connected, nor
    when it is renewed, nor for a new machine, nor when it ends."""
    instance = await machine(control)
    await control.connect("brittle")
    control.clock.forward(minutes=59)
    connection = await control.connection("brittle")
    renewed = await control.services.refresher.refresh(
        tenant_id=connection.tenant_id, connection_id=connection.id
    )
    assert renewed.revision > connection.revision
    async with control.services.database.transaction() as tx:
        await desire_all(tx, instance=instance, providers=control.services.providers)
    async with control.client(control.ada) as caller:
        told = (await caller.delete("/api/integrations/brittle")).json()
    assert (told["machines"], told["complete"]) == ([], True)
    async with control.services.database.reading() as tx:
        rows = await tx.deliveries.for_instance(
            tenant_id=instance.tenant_id, instance_id=instance.id
        )
        entries = await tx.audit.entries(tenant_id=instance.tenant_id)
    assert [row.subject for row in rows] == ["policy"]
    assert not any(entry.target == connection.id for entry in entries if "delivery" in entry.action)


async def test_a_renewal_is_delivered(control: Control) -> None:
    instance = await machine(control)
    await control.connect()
    control.clock.forward(minutes=59)
    connection = await control.connection()
    renewed = await control.services.refresher.refresh(
        tenant_id=connection.tenant_id, connection_id=connection.id
    )
    async with control.services.database.reading() as tx:
        row = await tx.deliveries.get(
            tenant_id=control.ada.tenant_id, instance_id=instance.id, subject=connection.id
        )
    assert row is not None
    assert row.source_revision == renewed.revision


async def test_every_step_is_in_the_audit_log(control: Control) -> None:
    await control.connect()
    control.clock.forward(minutes=59)
    connection = await control.connection()
    await control.services.refresher.refresh(
        tenant_id=connection.tenant_id, connection_id=connection.id
    )
    async with control.client(control.ada) as caller:
        await caller.delete("/api/integrations/acme")
    async with control.services.database.reading() as tx:
        entries = await tx.audit.entries(tenant_id=control.ada.tenant_id)
        verdict = await tx.audit.verify(control.ada.tenant_id)
    actions = [entry.action for entry in reversed(entries)]
    for action in (
        "authorization.started",
        "authorization.returned",
        "connection.connected",
        "connection.refresh_started",
        "connection.refreshed",
        "connection.disconnected",
        "connection.revocation_wanted",
        "connection.revoked",
    ):
        assert action in actions
    assert verdict.state == "whole"


async def test_observers_hear_of_it(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, str]] = []
    monkeypatch.setattr(
        control.services.registry,
        "notify",
        lambda hook, **facts: heard.append((hook, facts["provider"])),
    )
    await control.connect()
    control.clock.forward(minutes=59)
    connection = await control.connection()
    await control.services.refresher.refresh(
        tenant_id=connection.tenant_id, connection_id=connection.id
    )
    async with control.client(control.ada) as caller:
        await caller.delete("/api/integrations/acme")
    assert heard == [
        ("aura_connected", "acme"),
        ("aura_refreshed", "acme"),
        ("aura_disconnected", "acme"),
    ]


async def test_the_catalogue(control: Control) -> None:
    async with control.client(control.ada) as caller:
        lines = (await caller.get("/api/providers")).json()["providers"]
    by_id = {line["id"]: line for line in lines}
    assert by_id["acme"]["auth"][0]["strategy"] == "oauth2"
    assert by_id["keyed"]["auth"][0]["fields"][0]["name"] == "api_key"
    assert by_id["soon"]["status"] == "coming_soon"
    assert [variable["name"] for variable in by_id["tenanted"]["auth"][0]["variables"]] == [
        "subdomain",
        "region",
    ]


async def test_what_is_coming_cannot_be_connected(control: Control) -> None:
    async with control.client(control.ada) as caller:
        answer = await caller.post("/api/integrations/soon", json={"api_key": "x"})
    assert answer.status_code == 409
    assert "no public API" in answer.json()["detail"]


async def test_a_refused_verification_is_told_from_an_error(control: Control) -> None:
    control.provider.faults.append(answers(503))
    status, _ = await connect_by_key(control, {"fields": {"api_key": "key-of-ada"}})
    assert status == 502
