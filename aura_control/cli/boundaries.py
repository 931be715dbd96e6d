"""An agent's permissions as options of a command, and as lines for people."""

from __future__ import annotations

import re
from typing import Any

import typer

__all__ = ["boundaries", "described"]

_LIMIT = re.compile(r"(?P<scope>[a-z0-9_]+:[a-z0-9_]+)=(?P<most>[0-9]+)/(?P<window>hour|day)")


def boundaries(
    scopes: list[str] | None,
    limits: list[str] | None,
    domains: list[str] | None,
    daily_tokens: int | None,
) -> dict[str, Any]:
    """The options as the API takes them. Raises ``BadParameter`` for a limit that is none."""
    found: dict[str, Any] = {"scopes": sorted(scopes or [])}
    if limits:
        found["rate_limits"] = _limits(limits)
    if domains:
        found["allowed_domains"] = domains
    if daily_tokens is not None:
        found["max_daily_token_spend"] = daily_tokens
    return found


def described(permissions: dict[str, Any]) -> list[str]:
    """An agent's permissions, a line for each kind that it has."""
    lines = ["scopes: " + (", ".join(permissions["scopes"]) or "none")]
    for scope, allowed in sorted(permissions.get("rate_limits", {}).items()):
        each = [f"{n} per {key.removeprefix('max_per_')}" for key, n in sorted(allowed.items())]
        lines.append(f"{scope}: at most {', '.join(each)}")
    if "allowed_domains" in permissions:
        lines.append("domains: " + (", ".join(permissions["allowed_domains"]) or "none"))
    if "max_daily_token_spend" in permissions:
        lines.append(f"tokens: at most {permissions['max_daily_token_spend']} per day")
    return lines


def _limits(texts: list[str]) -> dict[str, dict[str, int]]:
    """``email:send=10/hour`` as the API takes it; the two windows of one scope add up."""
    found: dict[str, dict[str, int]] = {}
    for text in texts:
        match = _LIMIT.fullmatch(text)
        if match is None:
            raise typer.BadParameter(f"{text} is not like email:send=10/hour or email:send=50/day")
        window = found.setdefault(match["scope"], {})
        window[f"max_per_{match['window']}"] = int(match["most"])
    return found
