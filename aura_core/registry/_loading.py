"""Importing one plugin: the only place that runs its code at load time."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.abc import InspectLoader
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from aura_core import hookspecs
from aura_core.errors import PluginError
from aura_core.manifest import Manifest
from aura_core.registry._sources import Source

if TYPE_CHECKING:
    from aura_core.adapter import IntegrationAdapter
    from aura_core.tools import Tool

__all__ = ["Integration", "Plugin", "import_plugin", "integration"]

_TOOLS_MAY_IMPORT = frozenset({"pydantic", "aura_core.tools"})


@dataclass(frozen=True, kw_only=True)
class Integration:
    """An opened integration: its facts and its code.

    ``tools_source`` is the text of its tools module, empty without one.
    """

    manifest: Manifest
    adapter: IntegrationAdapter
    tools: tuple[Tool, ...]
    tools_source: str
    distribution: str


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """An imported plugin. It has a hook caller of its own, so that what it does wrong is known to
    be its doing and stops nobody else's hook."""

    source: Source
    hook: Any

    def collect(self, name: str, **arguments: Any) -> list[Any]:
        """What the hook returns, flattened. Raises :class:`PluginError`."""
        try:
            answers: list[Iterable[Any]] = getattr(self.hook, name)(**arguments)
            return [item for answer in answers for item in answer]
        except Exception as error:  # noqa: BLE001 - somebody else's code may raise anything
            raise PluginError(f"{self.source.distribution}: {name} failed: {_say(error)}") from None


def import_plugin(source: Source) -> Plugin:
    """Import a plugin's module. Raises :class:`PluginError` whatever it does instead."""
    manager = pluggy.PluginManager("aura")
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(_import(source.module or ""))
        manager.check_pending()
    except (pluggy.PluginValidationError, PluginError) as error:
        raise PluginError(f"{source.distribution}: {error}") from None
    return Plugin(source=source, hook=manager.hook)


def integration(plugin: Plugin | None, manifest: Manifest, distribution: str) -> Integration:
    """Put one integration together. Raises :class:`PluginError`."""
    # Here and not above: adapters bring httpx and Authlib, and a listing needs neither.
    from aura_core.adapter import IntegrationAdapter, default_adapter

    adapters = plugin.collect("aura_integrations") if plugin is not None else []
    for adapter in adapters:
        if not isinstance(adapter, IntegrationAdapter):
            raise PluginError(f"{distribution}: {adapter!r} is not an IntegrationAdapter")
    own = [adapter for adapter in adapters if adapter.id == manifest.id]
    if len(own) > 1:
        raise PluginError(f"{distribution}: two adapters call themselves {manifest.id}")
    tools, text = _tools(manifest, distribution)
    return Integration(
        manifest=manifest,
        adapter=own[0] if own else default_adapter(manifest),
        tools=tools,
        tools_source=text,
        distribution=distribution,
    )


def _tools(manifest: Manifest, distribution: str) -> tuple[tuple[Tool, ...], str]:
    from aura_core.tools import tools_in

    if manifest.tools_module is None:
        return (), ""
    module = _import(manifest.tools_module)
    loader = module.__spec__.loader if module.__spec__ is not None else None
    text = loader.get_source(module.__name__) if isinstance(loader, InspectLoader) else None
    if text is None:
        raise PluginError(f"{distribution}: {module.__name__} has no source to copy to machines")
    foreign = sorted(_foreign_imports(text))
    if foreign:
        raise PluginError(
            f"{distribution}: {module.__name__} imports {foreign[0]}: machines have the standard "
            "library, pydantic and aura_core.tools"
        )
    tools = tools_in(module)
    declared, defined = {t.name for t in manifest.tools}, {t.name for t in tools}
    if declared != defined:
        odd = sorted(declared ^ defined)[0]
        where = "the manifest only" if odd in declared else "the module only"
        raise PluginError(f"{distribution}: the tool {odd} is in {where}")
    return tools, text


def _foreign_imports(text: str) -> Iterable[str]:
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["." * node.level + (node.module or "")]
        for name in names:
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names and not _TOOLS_MAY_IMPORT & {top, name}:
                yield name


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        # SystemExit too: a plugin that ends the interpreter must not end the host.
        raise PluginError(f"{name} cannot be imported: {_say(error)}") from error


def _say(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0][:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
