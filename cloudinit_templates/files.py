"""The files of a machine, as entries of cloud-init's ``write_files``.

Files of users other than root carry ``defer``: cloud-init writes files before it makes users, and
an unknown owner ends the module, so that no later file would be written either.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aura_core.skills import VmCaddyRoute, VmWriteFile
from cloudinit_templates import layout
from cloudinit_templates.escaping import render
from cloudinit_templates.plan import DaemonArchive, Plan
from cloudinit_templates.units import AgentUnit, read_unit

__all__ = ["archive_file", "machine_files"]

_OWN_UNITS = ("aura-firewall.service", "aura-vmd.service", "aura-enrolled.path")


def machine_files(plan: Plan) -> list[dict[str, Any]]:
    """All files but the skills' archive.

    Raises :class:`aura_core.errors.InvalidInput` for a unit that may not be.
    """
    units = _agent_units(plan)
    return [
        *_daemon_files(plan),
        *_system_files(plan, units),
        *(_file(f"{layout.UNITS}/{unit.name}", unit.text) for unit in units),
        *(_agent_file(file) for file in plan.runtime.write_files),
        *(
            _agent_file(file)
            for skill in plan.skills
            for file in skill.write_files
            if file.path.startswith("/")
        ),
    ]


def archive_file(archive: bytes) -> dict[str, Any]:
    """The skills' folders as one file, which the daemon unpacks: minimal images lack ``xz``."""
    return {
        **_file(layout.SKILLS_ARCHIVE, base64.b64encode(archive).decode(), mode="0600"),
        "encoding": "b64",
        "owner": "aura:aura",
        "defer": True,
    }


def _file(path: str, content: str, *, mode: str = "0644") -> dict[str, Any]:
    return {"path": path, "permissions": mode, "content": content}


def _agent_file(file: VmWriteFile) -> dict[str, Any]:
    entry = _file(file.path, file.content, mode=file.permissions)
    if file.path.startswith(f"{layout.AGENT_HOME}/"):
        entry |= {"owner": "agent:agent", "defer": True}
    return entry


def _agent_units(plan: Plan) -> Sequence[AgentUnit]:
    runtime = [
        read_unit(service, owner=f"the runtime {plan.runtime.runtime}")
        for service in plan.runtime.services
    ]
    skills = [
        read_unit(service, owner=f"the skill {skill.skill_dir_name}")
        for skill in plan.skills
        for service in skill.services
    ]
    return runtime + skills


def _daemon_files(plan: Plan) -> Iterator[dict[str, Any]]:
    settings = {
        "instance_id": plan.instance_id,
        "control_url": plan.control_url,
        "control_public_keys": dict(sorted(plan.control_public_keys.items())),
        "listen": {"host": layout.DAEMON_HOST, "port": layout.DAEMON_PORT},
        "agent_user": "agent",
        "runtime": {
            "id": plan.runtime.runtime,
            "readiness": plan.runtime.readiness.model_dump(mode="json", exclude_none=True),
        },
    }
    text = json.dumps(settings, indent=2) + "\n"
    yield {**_file(layout.VMD_SETTINGS, text, mode="0640"), "owner": "root:aura", "defer": True}
    token = plan.join_token.get_secret_value()
    yield {
        **_file(layout.JOIN_TOKEN, token, mode="0600"),
        "owner": "aura:aura",
        "defer": True,
    }


@dataclass(frozen=True, kw_only=True)
class _Route:
    match: str
    port: int
    rewrite: str
    strips: bool


def _routes(plan: Plan) -> list[_Route]:
    routes = [route for skill in plan.skills for route in skill.caddy_routes]
    return [_route(route) for route in sorted(routes, key=lambda route: route.match_path)]


def _route(route: VmCaddyRoute) -> _Route:
    """Exact paths are always rewritten: Caddy matches the cleaned path but forwards the raw one."""
    wild = route.match_path.endswith("*")
    rewrite = route.rewrite_path or ("" if wild else route.match_path)
    strips = wild and bool(rewrite)
    # After a strip Caddy's {uri} brings the slash that would follow.
    return _Route(
        match=route.match_path,
        port=route.upstream_port,
        rewrite=rewrite.rstrip("/") if strips else rewrite,
        strips=strips,
    )


def _system_files(plan: Plan, units: Sequence[AgentUnit]) -> Iterator[dict[str, Any]]:
    ipv4, ipv6 = layout.METADATA_ADDRESSES
    archive = plan.daemon if isinstance(plan.daemon, DaemonArchive) else None
    values: dict[str, object] = {
        "agent_id": plan.agent_id,
        "caddyfile": layout.CADDYFILE,
        "daemon": f"{layout.DAEMON_HOST}:{layout.DAEMON_PORT}",
        "home": layout.AGENT_HOME,
        "install_daemon": archive is not None,
        "ipv4": ipv4,
        "ipv6": ipv6,
        "join_token": layout.JOIN_TOKEN,
        "mark": layout.ENROLLED_MARK,
        "metadata": " ".join(layout.METADATA_ADDRESSES),
        "programs": sorted(set(plan.runtime.needs)),
        "routes": _routes(plan),
        "scripts": layout.SCRIPTS,
        "site": plan.site,
        "skills": layout.SKILLS,
        "target": layout.AGENT_TARGET,
        "units": [*_OWN_UNITS, *(unit.name for unit in units)],
    }
    if archive is not None:
        installer = render("install_daemon.py.j2", {"url": archive.url, "sha256": archive.sha256})
        yield _file(f"{layout.SCRIPTS}/install_daemon.py", installer, mode="0755")
    for path, template, mode in _SYSTEM:
        yield _file(path, render(f"{template}.j2", values), mode=mode)


_SYSTEM = (
    (layout.CADDYFILE, "Caddyfile", "0644"),
    (f"{layout.UNITS}/caddy.service.d/aura.conf", "caddy.conf", "0644"),
    ("/etc/tmpfiles.d/aura.conf", "tmpfiles.conf", "0644"),
    *((f"{layout.SCRIPTS}/{name}", name, "0755") for name in ("setup", "firewall", "forget")),
    *(
        (f"{layout.UNITS}/{name}", name, "0644")
        for name in (*_OWN_UNITS, "aura-enrolled.service", layout.AGENT_TARGET)
    ),
)
