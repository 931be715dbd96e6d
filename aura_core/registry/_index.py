"""The compiled index that a plugin with many manifests ships: all of them in one JSON document.

Hundreds of manifests take a second to read and check; a listing needs five words of each. With an
index the words are taken as they are written, and a manifest is checked when somebody first asks
for it. What is in the index is as much the plugin's own as its manifests are: it is given no trust
that those are not, and whatever does not check is quarantined then.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aura_core.errors import ManifestError, PluginError
from aura_core.manifest import Manifest
from aura_core.registry._sources import INDEX, Source

__all__ = ["Card", "Entry", "card_in", "indexed"]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a listing says of an integration."""

    id: str
    name: str
    category: str
    strategies: tuple[str, ...]
    status: Literal["available", "coming_soon"]
    reason: str | None

    @classmethod
    def of(cls, manifest: Manifest) -> Card:
        return cls(
            id=manifest.id,
            name=manifest.name,
            category=manifest.category,
            strategies=tuple(method.strategy for method in manifest.auth),
            status=manifest.status,
            reason=manifest.status_reason,
        )


@dataclass(kw_only=True)
class Entry:
    """A manifest, where it comes from, and what a listing says of it."""

    card: Card
    source: Source
    path: Path
    load: Callable[[], Manifest]
    """Reads and checks it. Raises :class:`ManifestError` or :class:`PluginError`."""
    fault: str | None = None
    """Why it turned out not to be usable."""
    _manifest: Manifest | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def manifest(self) -> Manifest:
        """Raises :class:`PluginError`, the first time and from then on."""
        with self._lock:
            if self.fault is None and self._manifest is None:
                try:
                    loaded = self.load()
                    if Card.of(loaded) != self.card:
                        raise PluginError(f"{self.path}: {INDEX} beside it says something else")
                    self._manifest = loaded
                except (ManifestError, PluginError) as error:
                    self.fault = str(error)
            if self._manifest is None:
                raise PluginError(self.fault or f"{self.path} cannot be read")
            return self._manifest


def indexed(source: Source) -> Mapping[Path, Mapping[str, Any]]:
    """The documents of a source's index by file; empty when there is none that fits the files."""
    if source.index is None:
        return {}
    try:
        told = json.loads(source.index.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(told, dict):
        return {}
    folder = source.index.parent
    documents = {Path(folder, name): document for name, document in told.items()}
    own = {path for path in source.files if folder in path.parents}
    # A manifest that was added or taken away by hand: the index is of another time.
    fits = documents.keys() == own and all(isinstance(d, dict) for d in documents.values())
    return documents if fits else {}


def card_in(document: Mapping[str, Any]) -> Card | None:
    """The card of a document that nobody has checked, or ``None`` where it does not look right."""
    ways = document.get("auth")
    status = document.get("status", "available")
    if not isinstance(ways, list) or status not in ("available", "coming_soon"):
        return None
    told = [document.get(key) for key in ("id", "name", "category")]
    told += [way.get("strategy") if isinstance(way, dict) else None for way in ways]
    texts = [text for text in told if isinstance(text, str)]
    reason = document.get("status_reason")
    if len(texts) != len(told) or not isinstance(reason, str | None):
        return None
    name, title, category, *strategies = texts
    return Card(
        id=name,
        name=title,
        category=category,
        strategies=tuple(strategies),
        status=status,
        reason=reason,
    )
