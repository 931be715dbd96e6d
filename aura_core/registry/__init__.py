"""The registry: which integrations, computes and runtimes there are.

Listing reads manifests only; a plugin's code is imported when somebody opens one of its
integrations, and a plugin that fails is quarantined with its reason while the rest stays healthy.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint
from importlib.metadata import entry_points as installed_entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aura_core.errors import (
    ConfigurationError,
    Conflict,
    DuplicateIntegration,
    NotFound,
    PluginError,
)
from aura_core.hookspecs import GROUP
from aura_core.manifest import Manifest
from aura_core.registry._catalogue import Listing, open_inside, read, relocate
from aura_core.registry._index import Entry
from aura_core.registry._loading import Integration, Plugin, import_plugin, integration
from aura_core.registry._sources import Source, directory_sources, plugin_sources

if TYPE_CHECKING:
    from aura_core.checkpoints import CheckpointStore
    from aura_core.compute import Compute, HostContext
    from aura_core.runtime import Runtime
    from aura_core.secret_stores import SecretStore

__all__ = ["Integration", "Listing", "Registry"]

_log = logging.getLogger(__name__)


class Registry:
    """Made by :meth:`discover`. Safe to use from several threads."""

    def __init__(
        self,
        *,
        sources: Iterable[Source],
        entries: Mapping[str, Entry],
        broken: Iterable[Listing] = (),
        context: HostContext | None = None,
    ) -> None:
        self._sources = tuple(sources)
        self._entries = dict(entries)
        self._broken = list(broken)
        self._context = context
        self._plugins: dict[Source, Plugin | PluginError] = {}
        self._opened: dict[str, Integration | PluginError] = {}
        self._computes: Mapping[str, Compute] | None = None
        self._runtimes: Mapping[str, Runtime] | None = None
        self._secret_stores: Mapping[str, SecretStore] | None = None
        self._lock = threading.RLock()

    @classmethod
    def discover(
        cls,
        *,
        manifest_dirs: Iterable[Path | str] = (),
        allow_loopback_http: bool = False,
        relocations: Mapping[str, str] | None = None,
        private_hosts: Iterable[str] = (),
        context: HostContext | None = None,
        entry_points: Iterable[EntryPoint] | None = None,
    ) -> Registry:
        """Read all manifests: of installed plugins, and ``*.toml`` of the operator's folders.

        ``relocations`` maps an id to the loopback origin of a provider twin; ``private_hosts`` are
        names of providers that lie inside the operator's network. Raises
        :class:`ConfigurationError` for a relocation that cannot be; everything else that is wrong
        is listed as quarantined.
        """
        points = installed_entry_points(group=GROUP) if entry_points is None else entry_points
        sources = [*plugin_sources(points), *directory_sources(map(Path, manifest_dirs))]
        entries, broken = read(sources, allow_loopback_http=allow_loopback_http)
        return cls(
            sources=sources,
            entries=open_inside(relocate(entries, relocations or {}), tuple(private_hosts)),
            broken=broken,
            context=context,
        )

    def listings(self) -> list[Listing]:
        """Everything found, sorted by name; what is quarantined too."""
        listed = [self._listing(name, entry) for name, entry in self._entries.items()]
        return sorted([*listed, *self._broken], key=lambda line: (line.name.casefold(), line.id))

    def get(self, id: str) -> Manifest:  # noqa: A002 - the word of the manifests
        """The facts of an integration. Raises :class:`NotFound`, or for an id that is offered
        twice :class:`DuplicateIntegration`. A manifest that turns out not to be usable is a
        :class:`PluginError`."""
        return self._entry(id).manifest

    def open(self, id: str) -> Integration:  # noqa: A002
        """The facts and the code; imports the plugin the first time.

        Raises :class:`NotFound`, :class:`Conflict` for one that is not available yet, and
        :class:`PluginError` for one that is quarantined (from then on).
        """
        entry = self._entry(id)
        if entry.card.status == "coming_soon":
            raise Conflict(f"{entry.card.name} is not available yet.", hint=entry.card.reason)
        with self._lock:
            known = self._opened.get(id)
            if known is None:
                try:
                    plugin = self._plugin(entry.source) if entry.source.module else None
                    known = integration(plugin, entry.manifest, entry.source.distribution)
                except PluginError as error:
                    known = error
                    _log.warning("quarantined the integration %s: %s", id, error)
                self._opened[id] = known
        if isinstance(known, PluginError):
            raise PluginError(str(known))
        return known

    def by_strategy(self, strategy: str) -> list[Manifest]:
        """Manifests that offer this way to authenticate, sorted by id."""
        return [m for m in self._manifests() if any(a.strategy == strategy for a in m.auth)]

    def vm_capable(self) -> list[Manifest]:
        """Manifests that put a skill on machines, sorted by id."""
        return [manifest for manifest in self._manifests() if manifest.skill is not None]

    def computes(self) -> Mapping[str, Compute]:
        """Computes by id. Imports the plugins that may offer one, once."""
        with self._lock:
            if self._computes is None:
                self._computes = self._collect("aura_computes")
            return self._computes

    def runtimes(self) -> Mapping[str, Runtime]:
        """Runtimes by id. Imports the plugins that may offer one, once."""
        with self._lock:
            if self._runtimes is None:
                self._runtimes = self._collect("aura_runtimes")
            return self._runtimes

    def checkpoint_stores(self) -> Mapping[str, CheckpointStore]:
        """Places for checkpoints by the scheme of their URL, those of plugins. Collected anew at
        each call: the few who ask keep what they got."""
        with self._lock:
            return self._collect("aura_checkpoint_stores", key="scheme")

    def secret_stores(self) -> Mapping[str, SecretStore]:
        """Secret stores by scheme. Imports the plugins that may offer one, once."""
        with self._lock:
            if self._secret_stores is None:
                self._secret_stores = self._collect("aura_secret_stores", key="scheme")
            return self._secret_stores

    def notify(self, hook_name: str, **arguments: Any) -> None:
        """Tell the observers among the plugins that are imported or that serve the host.

        What one of them raises is logged: it neither reaches the caller nor keeps the event from
        the others.
        """
        with self._lock:
            self._host_plugins()
            plugins = [p for p in self._plugins.values() if isinstance(p, Plugin)]
        for plugin in plugins:
            try:
                getattr(plugin.hook, hook_name)(**arguments)
            except Exception:  # noqa: BLE001 - somebody else's code may raise anything
                _log.exception("%s: %s failed", plugin.source.distribution, hook_name)

    def _manifests(self) -> list[Manifest]:
        lines = (self._listing(name, self._entries[name]) for name in sorted(self._entries))
        return [line.manifest for line in lines if line.manifest is not None]

    def _entry(self, name: str) -> Entry:
        entry = self._entries.get(name)
        if entry is not None:
            return entry
        for line in self._broken:
            if line.id == name and line.entry is not None:
                raise DuplicateIntegration(line.reason or name)
            if line.id == name:
                raise PluginError(f"{line.distribution}: {line.reason}")
        raise NotFound(f"There is no integration {name!r}.")

    def _listing(self, name: str, entry: Entry) -> Listing:
        # A plugin whose module does not import takes all of its integrations with it.
        failed = self._opened.get(name) or self._plugins.get(entry.source)
        reason = str(failed) if isinstance(failed, PluginError) else entry.fault
        return Listing(
            id=name,
            entry=entry,
            distribution=entry.source.distribution,
            status=entry.card.status if reason is None else "quarantined",
            reason=entry.card.reason if reason is None else reason,
        )

    def _plugin(self, source: Source) -> Plugin:
        known = self._plugins.get(source)
        if known is None:
            try:
                known = import_plugin(source)
            except PluginError as error:
                known = error
                _log.warning("quarantined the plugin %s: %s", source.distribution, error)
                if not source.files:
                    self._quarantine(source.name, source.distribution, str(error))
            self._plugins[source] = known
        if isinstance(known, PluginError):
            raise PluginError(str(known))
        return known

    def _host_plugins(self) -> list[Plugin]:
        found = []
        for source in self._sources:
            if source.serves_the_host and source.fault is None:
                try:
                    found.append(self._plugin(source))
                except PluginError:
                    continue  # listed as quarantined
        return found

    def _collect(self, hook_name: str, *, key: str = "id") -> dict[str, Any]:
        if self._context is None:
            raise ConfigurationError("What serves the host needs a data directory of the host's.")
        owners: dict[str, list[tuple[str, Any]]] = {}
        for plugin in self._host_plugins():
            try:
                things = plugin.collect(hook_name, context=self._context)
            except PluginError as error:
                _log.warning("%s", error)
                self._quarantine(plugin.source.name, plugin.source.distribution, str(error))
                continue
            for thing in things:
                owners.setdefault(getattr(thing, key), []).append(
                    (plugin.source.distribution, thing)
                )
        for name, offers in owners.items():
            if len(offers) > 1:
                names = " and ".join(distribution for distribution, _ in offers)
                reason = f"{name} is offered by {names}: uninstall all but one."
                self._quarantine(name, names, reason)
        return {name: offers[0][1] for name, offers in owners.items() if len(offers) == 1}

    def _quarantine(self, name: str, distribution: str, reason: str) -> None:
        self._broken.append(
            Listing(
                id=name,
                distribution=distribution,
                status="quarantined",
                reason=reason,
            )
        )
