"""Reading every manifest once: what is healthy, and what is quarantined and why."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import aura_core
from aura_core.errors import ConfigurationError, ManifestError, PluginError
from aura_core.manifest import Manifest, check_manifest, is_loopback, load_manifest
from aura_core.registry._index import Card, Entry, card_in, indexed
from aura_core.registry._sources import Source

__all__ = ["Entry", "Listing", "open_inside", "read", "relocate"]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """One line of the catalogue. ``entry`` is ``None`` when there is none that can be read;
    ``reason`` says why it is not available, in a sentence for the operator."""

    id: str
    distribution: str
    status: Literal["available", "coming_soon", "quarantined"]
    reason: str | None = None
    entry: Entry | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.id if self.entry is None else self.entry.card.name

    @property
    def category(self) -> str | None:
        return None if self.entry is None else self.entry.card.category

    @property
    def strategies(self) -> tuple[str, ...]:
        return () if self.entry is None else self.entry.card.strategies

    @property
    def manifest(self) -> Manifest | None:
        """Checked the first time that it is asked for: the words above need no checking."""
        if self.entry is None:
            return None
        try:
            return self.entry.manifest
        except PluginError:
            return None  # the next listing says why


def read(
    sources: Iterable[Source], *, allow_loopback_http: bool
) -> tuple[dict[str, Entry], list[Listing]]:
    """Healthy entries by id, and listings of all that is not.

    Of two manifests with the same id neither is used: whichever won, an installed package could
    take over the credentials of another by naming itself like it.
    """
    found: dict[str, list[Entry]] = {}
    broken: list[Listing] = []
    seen: set[Path] = set()
    for source in sources:
        if source.fault is not None:
            broken.append(_quarantined(source.name, source, source.fault))
        documents = indexed(source)
        for path in source.files:
            # One indexed is no link: scandir found it in the plugin's own folder.
            real = path if path in documents else path.resolve()
            if real in seen:
                continue
            seen.add(real)
            try:
                entry = _entry(path, source, documents.get(path), allow_loopback_http)
            except (ManifestError, PluginError) as error:
                broken.append(_quarantined(_guess_id(path), source, str(error)))
            else:
                found.setdefault(entry.card.id, []).append(entry)
    healthy = {name: entries[0] for name, entries in found.items() if len(entries) == 1}
    broken += [_duplicate(entries) for entries in found.values() if len(entries) > 1]
    return healthy, broken


def relocate(entries: Mapping[str, Entry], relocations: Mapping[str, str]) -> dict[str, Entry]:
    """Entries with the relocated ones replaced. Raises :class:`ConfigurationError`.

    A relocated integration sends its credentials to another origin, so only this machine's own
    loopback is accepted: a typo in a setting must not hand tokens to a stranger.
    """
    result = dict(entries)
    for name, origin in relocations.items():
        if name not in entries:
            near = difflib.get_close_matches(name, entries, n=1)
            raise ConfigurationError(
                f"A twin is set for {name!r}, which is no integration here.",
                hint=f"Did you mean {near[0]!r}?" if near else None,
            )
        parts = urlsplit(origin)
        if parts.scheme != "http" or not is_loopback(parts.hostname or "") or "@" in parts.netloc:
            raise ConfigurationError(
                f"The twin of {name!r} is not on loopback.",
                hint="Only http://127.0.0.1:PORT and the like can stand in for a provider.",
            )
        result[name] = _known(
            entries[name].manifest.relocated(origin), entries[name].path, entries[name].source
        )
    return result


def open_inside(entries: Mapping[str, Entry], names: tuple[str, ...]) -> dict[str, Entry]:
    """Entries whose hosts of these names may resolve to private addresses."""
    return {key: _inside(entry, names) if names else entry for key, entry in entries.items()}


def _inside(entry: Entry, names: tuple[str, ...]) -> Entry:
    return Entry(
        card=entry.card,
        source=entry.source,
        path=entry.path,
        load=lambda: entry.manifest.with_private_hosts(names),
    )


def _entry(
    path: Path, source: Source, document: Mapping[str, Any] | None, allow_loopback_http: bool
) -> Entry:
    card = None if document is None else card_in(document)
    if document is None or card is None:
        manifest = load_manifest(path, allow_loopback_http=allow_loopback_http)
        return _known(_checked(manifest, path, source), path, source)

    def load() -> Manifest:
        checked = check_manifest(
            document, source=str(path), allow_loopback_http=allow_loopback_http
        )
        return _checked(checked, path, source)

    return Entry(card=card, source=source, path=path, load=load)


def _known(manifest: Manifest, path: Path, source: Source) -> Entry:
    return Entry(card=Card.of(manifest), source=source, path=path, load=lambda: manifest)


def _checked(manifest: Manifest, path: Path, source: Source) -> Manifest:
    """The manifest, where this Aura and its plugin can serve it."""
    if _version(manifest.minimum_core) > _version(aura_core.__version__):
        raise ManifestError(
            source=str(path),
            key="minimum_core",
            reason=f"needs Aura {manifest.minimum_core}; this is {aura_core.__version__}",
            hint="Upgrade Aura.",
        )
    if manifest.tools_module is None:
        return manifest
    if source.module is None:
        raise ManifestError(
            source=str(path), key="tools_module", reason="needs a plugin: this folder holds no code"
        )
    package = source.module.split(".")[0]
    if manifest.tools_module.split(".")[0] != package:
        raise ManifestError(
            source=str(path), key="tools_module", reason=f"lies outside the plugin ({package})"
        )
    return manifest


def _version(text: str) -> tuple[int, ...]:
    return (*(int(part) for part in text.split(".")[:3]), 0, 0)[:3]


def _guess_id(path: Path) -> str:
    """What a manifest that does not load calls itself, or what its file is called."""
    try:
        said = tomllib.loads(path.read_bytes().decode()).get("id")
    except (OSError, ValueError):
        said = None
    if isinstance(said, str) and said.isidentifier():
        return said
    return path.parent.name if path.name == "manifest.toml" else path.stem


def _quarantined(name: str, source: Source, reason: str) -> Listing:
    return Listing(
        id=name,
        distribution=source.distribution,
        status="quarantined",
        reason=reason,
    )


def _duplicate(entries: list[Entry]) -> Listing:
    """A distribution is uninstalled, a file is removed: each is called by what must go."""
    owners = [entry.source for entry in entries]
    names = " and ".join(
        str(entry.path)
        if entry.source.module is None or owners.count(entry.source) > 1
        else entry.source.distribution
        for entry in entries
    )
    return Listing(
        id=entries[0].card.id,
        entry=entries[0],
        distribution=names,
        status="quarantined",
        reason=f"{entries[0].card.id} is offered by {names}: keep one of them.",
    )
