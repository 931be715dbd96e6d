"""What was written by hand on top of the facts (``facts/corrections.toml``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["corrected"]

Document = dict[str, Any]


def corrected(manifest: Document, corrections: Mapping[str, Any]) -> Document:
    """The manifest with a provider's corrections laid over it.

    ``remove`` lists dotted keys to take out; ``api``, ``skill`` and the like are merged; ``auth``
    is merged by the methods' names. ``hosts``, ``variables``, ``first`` (the way that comes first)
    and ``without`` (ways to leave out) are the caller's.
    """
    built = dict(manifest)
    for key, value in corrections.items():
        if key in ("hosts", "variables", "first", "without", "remove", "auth"):
            continue
        built[key] = _merged(built.get(key), value)
    changes = corrections.get("auth", {})
    built["auth"] = [
        _merged(entry, changes.get(entry.get("id", entry["strategy"]), {}))
        for entry in built["auth"]
    ]
    for path in corrections.get("remove", ()):
        _remove(built, path.split("."))
    return built


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
    return new


def _remove(document: Any, path: list[str]) -> None:
    head, *rest = path
    if isinstance(document, list):
        for entry in document:
            if head in (entry.get("id", entry["strategy"]), "*"):
                _remove(entry, rest)
    elif not rest:
        document.pop(head, None)
    elif head in document:
        _remove(document[head], rest)
