"""The twin's memory of codes and tokens, with the rotation and reuse that the manifest declares."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from aura_core.manifest import RefreshTokens
from aura_core.testing.twin._accounts import TwinAccount

__all__ = ["Code", "Grant", "Grants", "Issued", "Refused"]

_CODE_LIFE = timedelta(minutes=10)
_GRACE = timedelta(seconds=60)


class Refused(Exception):
    """A refusal by its OAuth error code (RFC 6749 §5.2)."""

    def __init__(self, code: str, description: str = "", *, status: int = 400) -> None:
        super().__init__(code)
        self.code = code
        self.description = description
        self.status = status


@dataclass(kw_only=True)
class Grant:
    """One authorization: the family of tokens that came of it."""

    account: TwinAccount
    scopes: tuple[str, ...]
    offline: bool
    revoked: bool = False


@dataclass(frozen=True, kw_only=True)
class Code:
    """An authorization code and what it is bound to (RFC 6749 §4.1.3, RFC 7636 §4.4)."""

    grant: Grant
    redirect_uri: str
    challenge: str | None
    challenge_method: str
    expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class Issued:
    """Tokens that were just issued. ``lifetime`` is in seconds."""

    access_token: str
    refresh_token: str | None
    lifetime: int | None
    grant: Grant


@dataclass(kw_only=True)
class _Access:
    grant: Grant
    expires_at: datetime | None
    revoked: bool = False


@dataclass(kw_only=True)
class _Refresh:
    grant: Grant
    used_at: datetime | None = None
    answered: Issued | None = None
    revoked: bool = False


@dataclass(kw_only=True)
class Grants:
    """All codes and tokens of one twin."""

    facts: RefreshTokens
    lifetime: int | None
    now: Callable[[], datetime]
    _codes: dict[str, Code] = field(default_factory=dict)
    _spent: dict[str, Grant] = field(default_factory=dict)
    _access: dict[str, _Access] = field(default_factory=dict)
    _refresh: dict[str, _Refresh] = field(default_factory=dict)

    def code(
        self, grant: Grant, *, redirect_uri: str, challenge: str | None, challenge_method: str
    ) -> str:
        """A new authorization code."""
        text = "tc-" + secrets.token_urlsafe(24)
        self._codes[text] = Code(
            grant=grant,
            redirect_uri=redirect_uri,
            challenge=challenge,
            challenge_method=challenge_method,
            expires_at=self.now() + _CODE_LIFE,
        )
        return text

    def redeem(self, text: str) -> Code:
        """The code, once. Presented again it ends the tokens that came of it (RFC 6749 §4.1.2)."""
        if text in self._spent:
            self._spent[text].revoked = True
            raise Refused("invalid_grant", "The code was used before.")
        code = self._codes.pop(text, None)
        if code is None or code.expires_at <= self.now():
            raise Refused("invalid_grant", "The code is unknown or expired.")
        self._spent[text] = code.grant
        return code

    def issue(self, grant: Grant) -> Issued:
        """An access token, and a refresh token where one is due."""
        refresh = None
        if grant.offline and self.facts.mode == "refresh_token":
            refresh = "tr-" + secrets.token_urlsafe(24)
            self._refresh[refresh] = _Refresh(grant=grant)
        return self._issued(grant, refresh)

    def renew(self, text: str) -> Issued:
        """Use a refresh token, with the declared rotation and reuse."""
        held = self._refresh.get(text)
        if held is None or held.revoked or held.grant.revoked:
            raise Refused("invalid_grant", "The refresh token is unknown or revoked.")
        if held.used_at is not None:
            return self._reuse(held)
        if self.facts.rotation == "none":
            return self._issued(held.grant, None)
        issued = self.issue(held.grant)
        if self.facts.rotation == "single_use":
            held.used_at, held.answered = self.now(), issued
        return issued

    def trade(self, text: str) -> Issued:
        """A newer access token for a live one."""
        held = self._access.get(text)
        if held is None or not self._lives(held):
            raise Refused("invalid_grant", "The access token is unknown or expired.")
        return self._issued(held.grant, None)

    def holder(self, access_token: str) -> Grant | None:
        """Whose live access token this is."""
        held = self._access.get(access_token)
        return held.grant if held is not None and self._lives(held) else None

    def live(self) -> list[tuple[str, Grant]]:
        """Access tokens that are accepted now."""
        return [(text, held.grant) for text, held in self._access.items() if self._lives(held)]

    def revoke(self, text: str, *, cascades: bool) -> bool:
        """End a token; with ``cascades`` its whole grant. ``False``: it was not alive."""
        held = self._access.get(text) or self._refresh.get(text)
        if held is None or held.revoked or held.grant.revoked:
            return False
        held.revoked = True
        held.grant.revoked = cascades
        return True

    def _reuse(self, held: _Refresh) -> Issued:
        recent = held.used_at is not None and self.now() - held.used_at <= _GRACE
        if self.facts.reuse == "grace" and recent and held.answered is not None:
            return held.answered
        if self.facts.reuse == "revokes_family":
            held.grant.revoked = True
        raise Refused("invalid_grant", "The refresh token was used before.")

    def _issued(self, grant: Grant, refresh: str | None) -> Issued:
        access = "ta-" + secrets.token_urlsafe(24)
        life = self.lifetime
        ends = None if life is None else self.now() + timedelta(seconds=life)
        self._access[access] = _Access(grant=grant, expires_at=ends)
        return Issued(access_token=access, refresh_token=refresh, lifetime=life, grant=grant)

    def _lives(self, held: _Access) -> bool:
        ended = held.expires_at is not None and held.expires_at <= self.now()
        return not (ended or held.revoked or held.grant.revoked)
