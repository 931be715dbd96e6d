"""Other sets of hosts (sandboxes): which URL prefixes they replace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from aura_plugin_catalogue.words import label

__all__ = ["environments"]

Facts = Mapping[str, Any]


def environments(provider: Facts, best: Facts, base: str) -> list[dict[str, Any]]:
    """``[[environments]]`` of the best way to authenticate."""
    found = []
    for facts in best.get("environments", ()):
        replaces = _replaces(best.get("oauth2", {}), base, facts)
        if replaces:
            hosts = sorted({urlsplit(new).netloc for new in replaces.values()})
            found.append(
                {
                    "id": facts["id"],
                    "label": label(facts["id"]),
                    "replaces": replaces,
                    "hosts": hosts,
                }
            )
    return found


def _replaces(oauth: Facts, base: str, facts: Facts) -> dict[str, str]:
    usual = {
        "api_base_url": base,
        "authorize_url": oauth.get("authorize_url"),
        "token_url": oauth.get("token_url"),
    }
    found = {}
    for key, old in usual.items():
        new = facts.get(key)
        if old is None or new is None:
            continue
        # Only hosts differ as a rule: then other paths at the host (verification) move with it.
        same = urlsplit(old).path == urlsplit(new).path
        found[_origin(old) if same else old] = _origin(new) if same else new
    return found


def _origin(url: str) -> str:
    return f"https://{urlsplit(url).netloc}"
