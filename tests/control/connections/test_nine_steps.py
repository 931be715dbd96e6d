"""The nine things that a callback does, in their order, each by its number. What goes wrong on the
way is in ``test_authorization``."""

from __future__ import annotations

import pytest

from aura_control.db.models import DeliveryOp
from tests.control.connections.conftest import Control, query_of
from tests.control.connections.test_integrations import machine


async def test_1_the_state_is_checked_and_used_up_first(control: Control) -> None:
    async with control.client(control.ada) as browser:
        left = await browser.get("/api/integrations/acme")
        back = control.provider.consent(left.headers["location"])
        forged = await browser.get(
            "/api/integrations/acme/callback", params={**back, "state": "x" * 43}
        )
        assert forged.status_code == 422
        assert control.provider.calls == []
        for status in (200, 422):
            answer = await browser.get("/api/integrations/acme/callback", params=back)
            assert answer.status_code == status
    assert control.provider.count("/token") == 1


@pytest.mark.parametrize(
    ("name", "way", "forms"), [("acme", "post", False), ("basic", "basic", True)]
)
async def test_2_the_code_becomes_tokens_in_the_providers_way(
    control: Control, name: str, way: str, forms: bool
) -> None:
    control.provider.answers_forms = forms
    assert (await control.connect(name)).status_code == 200
    assert control.provider.authenticated == [way]
    assert all(map(control.provider.knows, (await control.secrets(name)).values()))


async def test_3_the_provider_is_asked_who_it_is(control: Control) -> None:
    await control.connect(account="ada@example.org")
    assert control.provider.calls == ["/token", "/me"]
    assert (await control.connection()).account_id == "ada@example.org"


async def test_4_the_adapter_makes_a_connection_of_the_answer(control: Control) -> None:
    await control.connect()
    connection = await control.connection()
    assert connection.metadata == {"email": "ada@example.org"}
    assert list(connection.scopes) == ["mail.read", "mail.send"]
    assert connection.token_expiry is not None
    left = (connection.token_expiry - control.clock()).total_seconds()
    assert left == pytest.approx(3600, abs=60)


async def test_5_the_tokens_are_stored_sealed(control: Control) -> None:
    await control.connect()
    stored = (await control.connection()).envelope()
    for value in (await control.secrets()).values():
        assert value not in f"{stored.access_token} {stored.refresh_token}"


async def test_6_connecting_again_keeps_the_row_and_the_refresh_token(control: Control) -> None:
    await control.connect()
    before, kept = await control.connection(), (await control.secrets())["refresh_token"]
    control.provider.gives_refresh_token = False
    await control.connect()
    after = await control.connection()
    assert after.id == before.id
    assert after.revision > before.revision
    assert (await control.secrets())["refresh_token"] == kept


async def test_7_running_machines_are_to_have_it(control: Control) -> None:
    instance = await machine(control)
    await control.connect()
    connection = await control.connection()
    async with control.services.database.reading() as tx:
        row = await tx.deliveries.get(
            tenant_id=control.ada.tenant_id, instance_id=instance.id, subject=connection.id
        )
    assert row is not None
    assert (row.op, row.source_revision) == (DeliveryOp.PUT, connection.revision)


async def test_8_the_agent_that_was_named_may_use_it(control: Control) -> None:
    instance = await machine(control)
    names = {"tenant_id": control.ada.tenant_id, "agent_id": instance.agent_id}
    await control.connect("brittle")
    await control.connect(query=f"?agent_id={instance.agent_id}")
    async with control.services.database.reading() as tx:
        assert list(await tx.agents.providers(**names)) == ["acme"]


async def test_9_a_page_says_so_and_closes_the_window(control: Control) -> None:
    answer = await control.connect()
    assert answer.headers["content-type"].startswith("text/html")
    assert "Acme is connected" in answer.text
    assert "window.close()" in answer.text
    assert 'data-outcome="connected"' in answer.text
    assert query_of(str(answer.url))["code"] not in answer.text
