"""How a message becomes something the machine holds: one sequence for pushes and pulls alike.

    size -> bearer token -> signature -> recipient -> revision -> open -> durable write -> ack

The order is part of the protection. Nothing is computed over what is too large or comes without
the token; nothing that is unsigned gets an answer that depends on what the machine holds; and
nothing is acknowledged that a power failure could take back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from aura_core.errors import (
    BearerRejected,
    MessageTooLarge,
    RevisionConflict,
    WrongRecipient,
)
from aura_core.wire import (
    MAX_MESSAGE_BYTES,
    Ack,
    Push,
    VmKeys,
    check_bearer,
    parse_push,
    sign_ack,
)
from aura_vmd.contents import SKILL, Content, SkillContent, read_content
from aura_vmd.holdings import Holdings
from aura_vmd.skills import Skills
from aura_vmd.store import Store

__all__ = ["Accepted", "Identity", "Inbox"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who this machine is, and whose signature it believes."""

    instance_id: str
    keys: VmKeys
    control_public_keys: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """A message that the machine holds now; ``changed`` is false where it did already."""

    subject: str
    revision: int
    changed: bool
    ack: dict[str, Any]


class Inbox:
    """Takes messages in, one at a time."""

    def __init__(
        self,
        *,
        identity: Identity,
        store: Store,
        holdings: Holdings,
        skills: Skills,
        now_ms: Callable[[], int],
    ) -> None:
        self._identity = identity
        self._store = store
        self._holdings = holdings
        self._skills = skills
        self._now_ms = now_ms
        self._bearer: SecretStr | None = None
        self._turn = asyncio.Lock()
        self._writing: set[asyncio.Task[Accepted]] = set()
        self.conflicts = 0
        """Messages of a revision that is held with another content: somebody forges or forgot."""

    def admit(self, gateway_token: SecretStr) -> None:
        """Accept pushes from whoever shows this token, from now on."""
        self._bearer = gateway_token

    def load(self) -> None:
        """Take over what is on disk, checked and opened like what arrives. Blocks."""
        self._store.load(self._restore)

    def _restore(self, push: Push) -> None:
        self._check_sender(push)
        self._apply(push, self._open(push))

    def check_size(self, size: int | None) -> None:
        """The first check, possible before the body is read. Raises ``MessageTooLarge``."""
        if size is not None and size > MAX_MESSAGE_BYTES:
            raise MessageTooLarge(f"A message has at most {MAX_MESSAGE_BYTES} bytes.")

    def check_token(self, authorization: str | None) -> None:
        """Raises ``BearerRejected``, also as long as the machine is not enrolled."""
        if self._bearer is None:
            raise BearerRejected("This machine is not enrolled yet.")
        check_bearer(authorization, token=self._bearer.get_secret_value())

    async def pushed(self, subject: str, authorization: str | None, raw: bytes) -> Accepted:
        """Take in what somebody posted for ``subject``. Raises the ``WireError`` that refuses it,
        ``EnvelopeError``, and ``OSError`` when it cannot be kept."""
        self.check_size(len(raw))
        self.check_token(authorization)
        return await self._accept(raw, subject=subject)

    async def pulled(self, raw: bytes) -> Accepted:
        """Take in what this machine asked for. All checks but the bearer's: it made the call.
        Reading the message checks its size."""
        return await self._accept(raw, subject=None)

    async def _accept(self, raw: bytes, *, subject: str | None) -> Accepted:
        push = parse_push(raw)
        self._check_sender(push)
        if subject is not None and subject != push.header.connection_id:
            raise WrongRecipient("The message is for another subject than the one it is posted to.")
        # A task of its own: a sender that hangs up between write and memory must not leave the two
        # apart.
        task = asyncio.create_task(self._keep(push, raw))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return await asyncio.shield(task)

    async def settle(self) -> None:
        """Wait for writes under way; at shutdown."""
        await asyncio.gather(*self._writing, return_exceptions=True)

    def _check_sender(self, push: Push) -> None:
        push.verify(self._identity.control_public_keys)
        push.check_recipient(self._identity.instance_id, self._identity.keys.recipient_kid)

    async def _keep(self, push: Push, raw: bytes) -> Accepted:
        async with self._turn:
            held = self._store.held.get(push.header.connection_id)
            try:
                changed = push.check_revision(
                    stored=held.revision if held else None,
                    stored_digest=held.digest if held else None,
                )
            except RevisionConflict:
                self.conflicts += 1
                _log.critical(
                    "ALARM: another message of revision %d of %s was signed for this machine",
                    push.header.revision,
                    push.header.connection_id,
                )
                raise
            if changed:
                content = await asyncio.to_thread(self._open, push)
                await asyncio.to_thread(self._store.write, push, raw)
                self._apply(push, content)
                await self._skills.settle()
        return self._accepted(push, changed=changed)

    def _open(self, push: Push) -> Content | None:
        if push.header.op == "delete":
            push.open(self._identity.keys)
            return None
        content = read_content(push.header, push.open(self._identity.keys))
        if isinstance(content, SkillContent):
            self._skills.check(content)
        return content

    def _apply(self, push: Push, content: Content | None) -> None:
        subject = push.header.connection_id
        if subject.startswith(SKILL):
            self._skills.want(
                subject.removeprefix(SKILL),
                content.archive if isinstance(content, SkillContent) else None,
            )
        elif content is None:
            self._holdings.remove(subject)
        else:
            self._holdings.put(subject, content, revision=push.header.revision)

    def _accepted(self, push: Push, *, changed: bool) -> Accepted:
        ack = Ack(
            instance_id=self._identity.instance_id,
            connection_id=push.header.connection_id,
            revision=push.header.revision,
            digest=push.digest,
            applied_at=self._now_ms(),
        )
        return Accepted(
            subject=push.header.connection_id,
            revision=push.header.revision,
            changed=changed,
            ack=sign_ack(ack, self._identity.keys),
        )
