"""The plaintext of messages: read strictly, each kind only under the subject that may carry it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Literal

from pydantic import Base64Bytes, BaseModel, ConfigDict, ValidationError

from aura_core.credentials import CredentialPayload
from aura_core.errors import MalformedMessage
from aura_core.permissions import AgentPermissions
from aura_core.wire import PushHeader

__all__ = ["POLICY", "SKILL", "Content", "SkillContent", "read_content"]

POLICY = "policy"
SKILL = "skill:"


class SkillContent(BaseModel):
    """A skill: its folder's name and its packed files (``aura_core.skills.pack_skills``)."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    kind: Literal["skill"] = "skill"
    dir: str
    archive: Base64Bytes


Content = CredentialPayload | AgentPermissions | SkillContent


def read_content(header: PushHeader, plaintext: bytes) -> Content:
    """Read a put's plaintext. Raises :class:`MalformedMessage` without any of the content.

    The subject decides what is expected. Were the content's own word for its kind believed, a
    credential's message could widen the agent's permissions.
    """
    subject = header.connection_id
    kind: type[Content]
    if subject == POLICY:
        kind = AgentPermissions
    elif subject.startswith(SKILL):
        kind = SkillContent
    else:
        kind = CredentialPayload
    content: Content | None = None
    # Raised outside of the handler: the error underneath would carry the plaintext along.
    with suppress(ValidationError, ValueError):
        content = kind.model_validate(json.loads(plaintext))
    if content is None:
        raise MalformedMessage(f"The content of {subject} is not in the form that it should have.")
    if isinstance(content, SkillContent) and subject != SKILL + content.dir:
        raise MalformedMessage(f"The content of {subject} is another skill.")
    if isinstance(content, CredentialPayload) and subject != content.connection_id:
        raise MalformedMessage(f"The content of {subject} is another connection.")
    if isinstance(content, CredentialPayload) and content.provider != content.binding.provider:
        raise MalformedMessage(f"The content of {subject} is bound to another provider.")
    return content
