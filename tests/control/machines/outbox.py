"""The outbox of one agent with one machine, without the rest of the control plane."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from importlib.metadata import EntryPoint
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import httpx
from pydantic import SecretStr
from sqlalchemy import text

from aura_control.bootstrap import add_user
from aura_control.clients.registered import RegisteredClients
from aura_control.clients.vmd import VmdClient
from aura_control.composition import Services
from aura_control.db.connection import Connection, Grant
from aura_control.db.engine import Database
from aura_control.db.models import Instance
from aura_control.db.models import InstanceState as S
from aura_control.services import delivery, machines
from aura_control.services.deliverer import OutboxDeliverer
from aura_control.services.enrolment import hashed
from aura_control.services.keys import Vault
from aura_control.services.providers import Providers
from aura_control.services.sealing import Sealer
from aura_control.services.skills import Skills
from aura_core.crypto import Keyring
from aura_core.errors import RevisionConflict
from aura_core.registry import Registry
from aura_core.wire import ControlKeys
from tests.control.machines.vm import Clockwork, Network, Vm


class Time:
    def __init__(self) -> None:
        self.now = datetime(2026, 6, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


class Outbox:
    """One agent with one machine: the real database, sealer and deliverer."""

    def __init__(self, template: Path, home: Path) -> None:
        self.time = Time()
        self.vault = Vault(Keyring.generate(), ControlKeys.generate())
        shutil.copy(template, home / "aura.db")
        self.database = Database.open(
            f"sqlite:///{home / 'aura.db'}", audit_key=self.vault.audit_key, clock=self.time
        )
        point = EntryPoint(name="notes", value="aura_test_notes", group="aura.plugins")
        registry = Registry.discover(entry_points=[point])
        self.http = httpx.AsyncClient()
        self.providers = Providers(
            registry=registry, http=self.http, clients=RegisteredClients({}), clock=self.time
        )
        self.sealer = Sealer(vault=self.vault, providers=self.providers, skills=Skills(registry))
        self.network = Network()
        self.client = VmdClient(transport=self.network)
        self.deliverer = OutboxDeliverer(
            database=self.database,
            sealer=self.sealer,
            vault=self.vault,
            machines=self.client,
            workflows=_Nobody(),
            clock=self.time,
        )
        self.scopes: frozenset[str] = frozenset()
        self.key: str | None = None

    async def open(self) -> None:
        owner = await add_user(self.database, tenant_name="t", email="t@example.org")
        self.who = {"tenant_id": owner.tenant_id}
        self.user_id = owner.user_id
        async with self.database.transaction() as tx:
            agent = await tx.agents.create(
                **self.who,
                user_id=owner.user_id,
                name="A",
                compute="c",
                runtime="r",
                persona={},
                permissions={"scopes": []},
                config={delivery.EVERY_INTEGRATION: True},
                actor="system",
            )
            self.agent_id = agent.id
            instance = await tx.instances.create(
                **self.who, agent_id=agent.id, compute="c", actor="system"
            )
            self.instance_id = instance.id
            await delivery.desire_all(tx, instance=instance, providers=self.providers)
        self.vm = Vm(
            instance_id=self.instance_id,
            join_token="-",
            control_keys={self.vault.signing.signer_kid: self.vault.signing.sig_public},
            http=self.http,
            clock=Clockwork(1),
            gateway_token="gateway",
        )
        self.network.vms["vm.test"] = self.vm
        await self._enrol()

    async def _enrol(self) -> None:
        ids = {**self.who, "instance_id": self.instance_id}
        async with self.database.transaction() as tx:
            await tx.instances.issue_join_token(
                **ids, token_hash=hashed("-"), expires_at=tx.now + timedelta(hours=1)
            )
            await tx.instances.record_join(
                instance_id=self.instance_id,
                token_hash=hashed("-"),
                enc_public=self.vm.keys.enc_public,
                sig_public=self.vm.keys.sig_public,
                recipient_kid=self.vm.keys.recipient_kid,
                gateway_token=await self.vault.seal_field(
                    tx, self.who["tenant_id"], self.instance_id, "gateway_token", 0, "gateway"
                ),
            )
            await tx.instances.record_external(**ids, external_id="x", push_url="http://vm.test")
            states = (S.REQUESTED, S.PROVISIONING, S.ENROLLING, S.RUNNING)
            for before, after in pairwise(states):
                await tx.instances.transition(**ids, from_states=(before,), to_state=after)

    async def close(self) -> None:
        await self.http.aclose()
        await self.client.aclose()
        await self.database.close()

    # -- what may happen

    async def permit(self, scopes: frozenset[str]) -> None:
        self.scopes = scopes
        async with self.database.transaction() as tx:
            await tx.agents.update(
                **self.who,
                agent_id=self.agent_id,
                changes={"permissions": {"scopes": sorted(scopes)}},
                actor="system",
            )
            await delivery.desire_policy(tx, instance=await self._instance(tx))

    async def connect(self, key: str) -> None:
        self.key = key
        method = self.providers.open("notes").manifest.auth_method()
        async with self.database.transaction() as tx:
            slot = await tx.integrations.reserve(**self.who, user_id=self.user_id, provider="notes")
            tokens = await self.vault.seal_tokens(
                tx,
                **self.who,
                slot=slot,
                method=method,
                secrets={"api_key": SecretStr(key)},
            )
            grant = Grant(tokens=tokens, token_expiry=None, scopes=(), auth_method="api_key")
            connection = await tx.integrations.upsert_connected(
                **self.who,
                user_id=self.user_id,
                provider="notes",
                slot=slot,
                grant=grant,
                actor="system",
            )
            await delivery.desire_credential(tx, connection=connection, providers=self.providers)

    async def disconnect(self) -> None:
        self.key = None
        async with self.database.transaction() as tx:
            connection = await self._connection(tx)
            assert connection is not None
            await tx.integrations.disconnect(
                **self.who,
                connection_id=connection.id,
                expected_revision=connection.revision,
                receipt={},
                actor="system",
            )
            ended = await tx.integrations.by_id(**self.who, connection_id=connection.id)
            await delivery.desire_deletion(tx, connection=ended)

    async def push(self, faults: list[str]) -> None:
        """One round of the deliverer, with these faults on the way."""
        self.vm.faults = [*faults]
        await self.deliverer.deliver_due()
        self.vm.faults = []

    async def pull(self, *, acknowledge: bool) -> None:
        async with self.database.transaction() as tx:
            instance = await self._instance(tx)
            services = cast(Services, _Only(self.sealer, self.vault))
            pulled = await machines.pull(
                services, tx, instance=instance, revisions=self.vm.revisions
            )
        acks = []
        for message in pulled.messages:
            try:
                acks.append(self.vm.take_document(message))
            except RevisionConflict:
                continue  # the machine keeps what it has; being pushed to, it says so
        if acknowledge:
            async with self.database.transaction() as tx:
                await machines.acknowledge(tx, instance=await self._instance(tx), acks=acks)

    async def roll_back(self, subject: str, by: int) -> None:
        """The control plane's database is put back to an earlier state of this row."""
        async with self.database.transaction() as tx:
            await tx.session.execute(
                text(
                    "UPDATE deliveries SET desired_revision = max(1, desired_revision - :by),"
                    " message = NULL, digest = NULL, acked_revision = NULL"
                    " WHERE subject = :subject"
                ),
                {"by": by, "subject": subject},
            )

    async def subjects(self) -> dict[str, tuple[int, int | None]]:
        async with self.database.reading() as tx:
            rows = await tx.deliveries.for_instance(**self.who, instance_id=self.instance_id)
        return {row.subject: (row.desired_revision, row.acked_revision) for row in rows}

    async def connection_id(self) -> str | None:
        async with self.database.reading() as tx:
            connection = await self._connection(tx)
        return None if connection is None else connection.id

    async def _instance(self, tx: Any) -> Instance:
        found: Instance = await tx.instances.get(**self.who, instance_id=self.instance_id)
        return found

    async def _connection(self, tx: Any) -> Connection | None:
        found: Connection | None = await tx.integrations.get(
            **self.who, user_id=self.user_id, provider="notes"
        )
        return found


class _Nobody:
    """No workflow waits for this machine."""

    async def start(self, name: str, workflow_id: str, *arguments: Any) -> None:
        raise AssertionError("nothing starts a workflow here")

    async def send(self, workflow_id: str, topic: str, message: Any) -> None:
        raise AssertionError("the machine runs already")


class _Only:
    """The services that pulling needs."""

    def __init__(self, sealer: Sealer, vault: Vault) -> None:
        self.sealer = sealer
        self.vault = vault
