"""How the machine becomes known: its keys, made once, and the join, repeated until it succeeds."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import SecretStr

from aura_core.errors import AuraError, ConfigurationError, ProviderUnavailable
from aura_core.wire import VmKeys, make_join, open_join_answer
from aura_vmd.files import read_nofollow, write_durably
from aura_vmd.settings import Settings

__all__ = ["Enrolled", "Joiner", "enrol", "load_enrolment", "load_or_make_keys"]

_log = logging.getLogger(__name__)

_KEYS = "keys.json"
_ANSWER = "enrolment.json"
_SMALL_FILE = 64 * 1024
_FIRST_DELAY = 0.5
_LONGEST_DELAY = 60.0


@dataclass(frozen=True, kw_only=True)
class Enrolled:
    """What the control plane gave this machine when it joined."""

    gateway_token: SecretStr = field(repr=False)
    heartbeat_seconds: int


class Joiner(Protocol):
    """The control plane's side of joining."""

    async def join(self, request: bytes) -> bytes:
        """Post the request; the sealed answer. Raises ``ProviderUnavailable`` and others."""
        ...


def load_or_make_keys(settings: Settings) -> VmKeys:
    """The machine's keys, made at the first start. Raises :class:`ConfigurationError`.

    A damaged file is an error, not a reason for new keys: the join token is bound to the first.
    """
    path = settings.layout.state / _KEYS
    try:
        return VmKeys.load(read_nofollow(path, limit=_SMALL_FILE))
    except FileNotFoundError:
        keys = VmKeys.generate()
        write_durably(path, keys.dump())
        return keys
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from None


def load_enrolment(settings: Settings, keys: VmKeys) -> Enrolled | None:
    """The answer to an earlier join. On disk it is as it came: sealed to this machine's key."""
    path = settings.layout.state / _ANSWER
    try:
        return _open(read_nofollow(path, limit=_SMALL_FILE), settings, keys)
    except FileNotFoundError:
        return None
    except (OSError, AuraError) as error:
        # Joining again is harmless: same token and same keys get the same answer.
        _log.error("the stored enrolment cannot be used, joining again: %s", error)
        return None


async def enrol(
    settings: Settings, keys: VmKeys, joiner: Joiner, *, now_ms: Callable[[], int]
) -> Enrolled:
    """Join, trying again for as long as it takes; the token is read anew for each attempt.

    A refusal is tried again too, slowly: the operator may put another token in place.
    """
    delay = _FIRST_DELAY
    while True:
        try:
            return await _join_once(settings, keys, joiner, now_ms())
        except AuraError as error:
            _log.warning("not enrolled yet: %s", error)
            if not isinstance(error, ProviderUnavailable):
                delay = _LONGEST_DELAY
        # Jitter, so that a hundred machines do not come back to a restarted control plane at once.
        await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311
        delay = min(delay * 2, _LONGEST_DELAY)


async def _join_once(settings: Settings, keys: VmKeys, joiner: Joiner, issued_at: int) -> Enrolled:
    token = await asyncio.to_thread(_read_token, settings)
    request = make_join(
        keys, instance_id=settings.instance_id, join_token=token, issued_at=issued_at
    )
    raw = await joiner.join(request)
    enrolled = _open(raw, settings, keys)
    await asyncio.to_thread(_keep, settings, raw)
    return enrolled


def _open(raw: bytes, settings: Settings, keys: VmKeys) -> Enrolled:
    answer = open_join_answer(
        raw,
        instance_id=settings.instance_id,
        keys=keys,
        control_public_keys=settings.control_public_keys,
    )
    return Enrolled(
        gateway_token=SecretStr(answer.gateway_token), heartbeat_seconds=answer.heartbeat_seconds
    )


def _read_token(settings: Settings) -> str:
    path = settings.layout.join_token
    try:
        return read_nofollow(path, limit=1024).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigurationError(f"The join token {path} cannot be read: {reason}.") from None


def _keep(settings: Settings, raw: bytes) -> None:
    """Store the answer first: a crash before the token is gone only repeats the join."""
    write_durably(settings.layout.state / _ANSWER, raw)
    path = settings.layout.join_token
    try:
        path.unlink(missing_ok=True)
    except OSError:
        # A directory of root's: emptying the file is what its owner can still do.
        try:
            path.write_bytes(b"")
        except OSError as error:
            _log.warning("the spent join token is left in %s: %s", path, error.strerror)
