"""A control plane's outbox with many machines: the real database, sealer and deliverer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.metadata import EntryPoint
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr
from sqlalchemy import text

from aura_control.bootstrap import add_user
from aura_control.clients.registered import RegisteredClients
from aura_control.clients.vmd import VmdClient
from aura_control.db.columns import milliseconds, utc_now
from aura_control.db.connection import Connection, Grant, Slot
from aura_control.db.engine import Database
from aura_control.db.models import Instance
from aura_control.db.models import InstanceState as S
from aura_control.db.schema import migrate
from aura_control.db.transaction import Transaction
from aura_control.services import delivery
from aura_control.services.deliverer import OutboxDeliverer, Pace
from aura_control.services.enrolment import hashed
from aura_control.services.keys import Vault
from aura_control.services.providers import Providers, auth_id
from aura_control.services.sealing import Sealer
from aura_control.services.skills import Skills
from aura_core.crypto import Keyring
from aura_core.encoding import b64url, unb64url
from aura_core.registry import Registry
from aura_core.wire import ControlKeys, PushHeader, seal_push
from benchmarks.processes import running

__all__ = ["GATEWAY_TOKEN", "Outbox", "joined"]

GATEWAY_TOKEN = "gateway-token-of-a-benchmark-0123456789"

_PROVIDER = "google"
_CLIENT = {"GOOGLE_CLIENT_ID": "client", "GOOGLE_CLIENT_SECRET": "secret"}
_SECONDS = 120.0


class Outbox:
    """One user with one connection and many agents, each with a machine."""

    def __init__(self, url: str, *, machines: VmdClient, pace: Pace) -> None:
        self.vault = Vault(Keyring.generate(), ControlKeys.generate())
        self._published = asyncio.Event()
        self.database = Database.open(
            url,
            audit_key=self.vault.audit_key,
            published=lambda _: self._published.set(),
        )
        point = EntryPoint(name="google", value="aura_plugin_google", group="aura.plugins")
        registry = Registry.discover(entry_points=[point])
        self._http = httpx.AsyncClient()
        self._providers = Providers(
            registry=registry, http=self._http, clients=RegisteredClients(_CLIENT), clock=utc_now
        )
        self._skills = Skills(registry)
        self._machines = machines
        self._pace = pace
        self.deliverer = self.another_deliverer()
        self._instances: list[Instance] = []

    def another_deliverer(self) -> OutboxDeliverer:
        """As in another process with the same database."""
        return OutboxDeliverer(
            database=self.database,
            sealer=Sealer(vault=self.vault, providers=self._providers, skills=self._skills),
            vault=self.vault,
            machines=self._machines,
            workflows=_Nobody(),
            clock=utc_now,
            pace=self._pace,
        )

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, url: str, count: int, *, machines: VmdClient | None = None, pace: Pace | None = None
    ) -> AsyncIterator[Outbox]:
        """With ``count`` machines that have not joined yet, in the empty database ``url``."""
        await migrate(url)
        outbox = cls(url, machines=machines or VmdClient(), pace=pace or Pace())
        try:
            await outbox._populate(count)
            yield outbox
        finally:
            await outbox._machines.aclose()
            await outbox._http.aclose()
            await outbox.database.close()

    @property
    def instance_ids(self) -> Sequence[str]:
        return [instance.id for instance in self._instances]

    async def _populate(self, count: int) -> None:
        owner = await add_user(self.database, tenant_name="t", email="t@example.org")
        self._who = {"tenant_id": owner.tenant_id}
        self._user_id = owner.user_id
        async with self.database.transaction() as tx:
            for number in range(count):
                agent = await tx.agents.create(
                    **self._who,
                    user_id=owner.user_id,
                    name=f"agent {number}",
                    compute="c",
                    runtime="r",
                    persona={},
                    permissions={"scopes": []},
                    config={delivery.EVERY_INTEGRATION: True},
                    actor="system",
                )
                self._instances.append(
                    await tx.instances.create(
                        **self._who, agent_id=agent.id, compute="c", actor="system"
                    )
                )

    async def enrol(self, joined: Mapping[str, Any]) -> None:
        """The machines have joined with these keys, run, and hold the connection's skill."""
        async with self.database.transaction() as tx:
            for instance in self._instances:
                await self._enrol(tx, instance, joined[instance.id])
            self._instances = [
                await tx.instances.get(**self._who, instance_id=instance.id)
                for instance in self._instances
            ]
        async with self.database.transaction() as tx:
            slot = await tx.integrations.reserve(
                **self._who, user_id=self._user_id, provider=_PROVIDER
            )
            method = self._providers.open(_PROVIDER).manifest.auth[0]
            tokens = await self.vault.seal_tokens(
                tx, **self._who, slot=slot, method=method, secrets=_tokens()
            )
            self._method = method
            self._connection = await tx.integrations.upsert_connected(
                **self._who,
                user_id=self._user_id,
                provider=_PROVIDER,
                slot=slot,
                grant=Grant(
                    tokens=tokens, token_expiry=None, scopes=(), auth_method=auth_id(method)
                ),
                actor="system",
            )
        await self._report()

    async def _report(self) -> None:
        """Each machine was heard of, and has the connection's skill."""
        skill = await self._skills.of(_PROVIDER)
        skills = {} if skill is None else {skill.manifest.skill_dir_name: skill.digest}
        async with self.database.transaction() as tx:
            for instance in self._instances:
                await tx.instances.heartbeat(
                    **self._who, instance_id=instance.id, issued_at=1, health={"skills": skills}
                )

    async def _enrol(self, tx: Transaction, instance: Instance, keys: Mapping[str, Any]) -> None:
        ids = {**self._who, "instance_id": instance.id}
        token = hashed(instance.id)
        await tx.instances.issue_join_token(
            **ids, token_hash=token, expires_at=tx.now + timedelta(hours=1)
        )
        await tx.instances.record_join(
            instance_id=instance.id,
            token_hash=token,
            enc_public=unb64url(keys["enc_public"]),
            sig_public=unb64url(keys["sig_public"]),
            recipient_kid=keys["recipient_kid"],
            gateway_token=await self.vault.seal_field(
                tx, self._who["tenant_id"], instance.id, "gateway_token", 0, GATEWAY_TOKEN
            ),
        )
        await tx.instances.record_external(**ids, external_id="x", push_url=keys["push_url"])
        for before, after in pairwise((S.REQUESTED, S.PROVISIONING, S.ENROLLING, S.RUNNING)):
            await tx.instances.transition(**ids, from_states=(before,), to_state=after)

    @asynccontextmanager
    async def delivering(self) -> AsyncIterator[None]:
        """The deliverer runs, as in any process of the control plane."""
        task = asyncio.create_task(self.deliverer.run())
        try:
            yield
        finally:
            await self.deliverer.close()
            await task

    async def renewed_everywhere(self) -> float:
        """Milliseconds from new tokens to the last machine's receipt."""
        began = time.perf_counter_ns()
        await self.renew()
        await self.held_by_all_but(0)
        return (time.perf_counter_ns() - began) / 1e6

    async def received_everywhere(self) -> float:
        """Milliseconds from the commit of new tokens to the last machine's receipt: its verified
        acknowledgement, committed too. Storing the tokens is not in it."""
        await self.renew()
        began = time.perf_counter_ns()
        await self.held_by_all_but(0)
        return (time.perf_counter_ns() - began) / 1e6

    async def renew(self) -> None:
        """New tokens, wanted on every machine."""
        async with self.database.transaction() as tx:
            before = await tx.integrations.by_id(**self._who, connection_id=self._connection.id)
            await self._renew(tx, before)
        self.deliverer.wake()

    async def held_by_all_but(self, rest: int) -> None:
        """Waits until only so many machines lack what they should hold."""
        async with asyncio.timeout(_SECONDS):
            while await self._lacking() > rest:
                await self._published.wait()

    async def _renew(self, tx: Transaction, before: Connection) -> None:
        revision = tx.integrations.next_revision(before.revision)
        tokens = await self.vault.seal_tokens(
            tx,
            **self._who,
            slot=Slot(connection_id=before.id, revision=revision, replaces=before.revision),
            method=self._method,
            secrets=_tokens(),
        )
        after = await tx.integrations.apply_refresh(
            tenant_id=before.tenant_id,
            connection_id=before.id,
            expected_revision=before.revision,
            revision=revision,
            tokens=tokens,
            token_expiry=tx.now + timedelta(hours=1),
        )
        if after is None:
            raise RuntimeError("somebody else renewed it")
        await delivery.desire_credential(tx, connection=after, providers=self._providers)

    async def _lacking(self) -> int:
        self._published.clear()
        async with self.database.reading() as tx:
            query = text(
                "SELECT count(*) FROM deliveries WHERE subject = :subject"
                " AND (acked_revision IS NULL OR acked_revision < desired_revision)"
            )
            found = await tx.session.execute(query, {"subject": self._connection.id})
            return int(found.scalar_one())

    async def sealed_apart(self) -> Sequence[tuple[str, bytes]]:
        """Addresses and new messages, as large as those of the deliverer, that it knows nothing
        of; the daemons take them for newer ones."""
        await asyncio.sleep(0.002)  # a revision is a time in milliseconds, and must be a new one
        payload = await self._payload()
        now = milliseconds(utc_now())
        return [
            (
                f"{instance.push_url}/internal/credentials/{self._connection.id}",
                seal_push(
                    PushHeader(
                        instance_id=instance.id,
                        recipient_kid=instance.recipient_kid or "",
                        connection_id=self._connection.id,
                        op="put",
                        revision=now,
                        issued_at=now,
                        signer_kid=self.vault.signing.signer_kid,
                    ),
                    payload,
                    recipient_public=instance.enc_public or b"",
                    signer=self.vault.signing,
                ),
            )
            for instance in self._instances
        ]

    async def _payload(self) -> bytes:
        opened, context = self._providers.of(self._connection)
        async with self.database.reading() as tx:
            newest = await tx.integrations.by_id(**self._who, connection_id=self._connection.id)
            envelope = await self.vault.open_envelope(tx, newest)
        payload = opened.adapter.build_vm_credential_payload(
            context, envelope, connection_revision=newest.revision
        )
        if payload is None:
            raise RuntimeError(f"{_PROVIDER} has nothing for machines")
        return payload.model_dump_json().encode()


@asynccontextmanager
async def joined(directory: Path, outbox: Outbox) -> AsyncIterator[None]:
    """A process that is all these machines (:mod:`benchmarks.fleet`), which have joined."""
    signing = outbox.vault.signing
    plan = {
        "control_public_keys": {signing.signer_kid: b64url(signing.sig_public)},
        "token": GATEWAY_TOKEN,
        "instances": outbox.instance_ids,
    }
    (directory / "fleet.json").write_text(json.dumps(plan))
    command = ("-m", "benchmarks.fleet", str(directory))
    async with running(*command, environment={}, directory=directory):
        await outbox.enrol(json.loads((directory / "joined.json").read_text()))
        yield


class _Nobody:
    """No workflow waits for these machines."""

    async def start(self, name: str, workflow_id: str, *arguments: Any) -> None:
        raise RuntimeError("nothing starts a workflow here")

    async def send(self, workflow_id: str, topic: str, message: Any) -> None:
        raise RuntimeError("the machines run already")


def _tokens() -> Mapping[str, SecretStr]:
    """As long as Google's are."""
    return {"access_token": SecretStr("ya29." + "0123456789abcdef" * 13)}
