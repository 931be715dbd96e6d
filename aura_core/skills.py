"""Skills: what an integration puts on an agent's machine, and the archive that carries it.

A skill is a folder with ``SKILL.md`` (front matter ``name`` and ``description``, as OpenClaw
2026.9 reads it), a command line, and the plugin's own ``tools.py``. Code that skills share is the
daemon's (``aura_core`` in its virtual environment), so twenty skills stay small.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import posixpath
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from aura_core.errors import InvalidInput
from aura_core.manifest import Manifest, Skill
from aura_core.tools import Tool

__all__ = [
    "MAX_UNPACKED",
    "VmCaddyRoute",
    "VmSkillManifest",
    "VmSystemdService",
    "VmWriteFile",
    "build_skill",
    "by_claim",
    "pack_skills",
    "read_skills",
    "skill_digest",
    "unpack_skills",
]

MAX_UNPACKED = 16 * 1024 * 1024
"""Bytes that an archive may unpack to: a small archive must not fill a machine's disk."""

_OPEN_ROOTS = ("/var/lib/agent/", "/etc/aura/skills/")


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VmWriteFile(_Value):
    """A file. ``path`` is relative to the skill's folder, or absolute below
    ``/var/lib/agent/`` or ``/etc/aura/skills/``: a skill has no business elsewhere."""

    path: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    content: str
    permissions: Annotated[str, StringConstraints(pattern=r"^0[0-7]{3}$")] = "0644"

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        plain = path == posixpath.normpath(path) and path != "."
        if not plain or path.startswith("..") or "\\" in path:
            raise ValueError("is not a plain path")
        if path.startswith("/") and not path.startswith(_OPEN_ROOTS):
            raise ValueError(f"lies outside {' and '.join(_OPEN_ROOTS)}")
        if not path.isprintable():
            raise ValueError("holds unprintable characters")
        return path

    @field_validator("permissions")
    @classmethod
    def _no_special_bits(cls, text: str) -> str:
        if int(text, 8) & 0o022:
            raise ValueError("lets others write")
        return text


class VmSystemdService(_Value):
    """A unit of the skill's own; it always runs as the agent's user, which composing enforces."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9@_.-]{0,62}$")]
    unit_file_content: Annotated[str, StringConstraints(min_length=1, max_length=16384)]


class VmCaddyRoute(_Value):
    """A path that the machine's web server hands to a port of the skill's."""

    match_path: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9/_.-]{1,127}\*?$")]
    upstream_port: Annotated[int, Field(ge=1024, le=65535)]
    rewrite_path: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9/_.-]{0,127}$")] | None = (
        None
    )

    @field_validator("match_path")
    @classmethod
    def _not_reserved(cls, path: str) -> str:
        if ".." in path or path.startswith(("/internal", "/health")):
            raise ValueError("is reserved for the daemon")
        return path


class VmSkillManifest(_Value):
    """Everything that one integration puts on a machine. Nothing in it is secret."""

    skill_dir_name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    provider: str
    command: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] | None = None
    write_files: tuple[VmWriteFile, ...]
    services: tuple[VmSystemdService, ...] = ()
    caddy_routes: tuple[VmCaddyRoute, ...] = ()

    @model_validator(mode="after")
    def _has_skill_md(self) -> Self:
        paths = [file.path for file in self.write_files]
        if "SKILL.md" not in paths:
            raise ValueError("a skill has a SKILL.md")
        if len(set(paths)) != len(paths):
            raise ValueError("a path is written twice")
        return self


_COMMAND = """\
#!/bin/sh
# Calls go through the daemon's socket: no credential is in this process, and none can be.
exec "${AURA_PYTHON:-/opt/aura/bin/python}" -I -m aura_core.skillcli "$(dirname "$0")/.." "$@"
"""


def build_skill(
    manifest: Manifest, tools: Sequence[Tool], tools_source: str
) -> VmSkillManifest | None:
    """The skill of an integration, or ``None`` where its manifest declares none.

    ``tools_source`` is the text of the plugin's ``tools_module``; it is copied as it is.
    """
    if manifest.skill is None:
        return None
    skill = manifest.skill
    facts = {"provider": manifest.id, "name": manifest.name, "command": skill.command}
    files = [
        VmWriteFile(path="SKILL.md", content=_skill_md(manifest, skill, tools)),
        VmWriteFile(path="skill.json", content=json.dumps(facts, sort_keys=True) + "\n"),
        VmWriteFile(path=f"bin/{skill.command}", content=_COMMAND, permissions="0755"),
    ]
    if tools:
        files.append(VmWriteFile(path="tools.py", content=tools_source))
    return VmSkillManifest(
        skill_dir_name=skill.dir_name,
        provider=manifest.id,
        command=skill.command,
        write_files=tuple(files),
    )


def _skill_md(manifest: Manifest, skill: Skill, tools: Sequence[Tool]) -> str:
    command = "{baseDir}/bin/" + skill.command
    head = [
        "---",
        f"name: {skill.dir_name}",
        f"description: {json.dumps(skill.description)}",
        "---",
        f"# {manifest.name}",
        "",
    ]
    if not tools:
        return "\n".join([*head, *_calls_only(manifest, command), ""])
    lines = [
        *head,
        f"Run `{command} <tool> [--argument value ...]`. Answers are JSON on standard output;",
        "exit code 1 means that the call was refused or failed, and standard error says why.",
        f"You need no key or token: the machine adds it. `{command} call METHOD PATH` makes any",
        "other call to this provider that your permissions allow.",
        "",
    ]
    for tool in tools:
        lines += [f"## {tool.name}", "", tool.description, ""]
        schema = tool.schema()
        for name, prop in schema.get("properties", {}).items():
            need = "required" if name in schema.get("required", ()) else "optional"
            kind = prop.get("type", "value")
            lines.append(
                f"- `--{name.replace('_', '-')}` ({kind}, {need}): {prop.get('description', name)}"
            )
        lines.append("")
    return "\n".join(lines)


def _calls_only(manifest: Manifest, command: str) -> list[str]:
    """What an agent needs to know to call an API for which there are no tools."""
    lines = [
        f"Run `{command} call METHOD PATH [--json BODY]`. PATH begins with a slash, is",
        f"percent-encoded, may hold a query, and is relative to `{manifest.api.base_url}`.",
        "The body of the provider's answer is on standard output; exit code 1 means that the call",
        "was refused or failed, and standard error says why. You need no key or token: the machine",
        "adds it.",
    ]
    others = [host for host in manifest.hosts if f"//{host}" not in manifest.api.base_url]
    if others:
        named = ", ".join(f"`{host}`" for host in others)
        lines += ["", f"With `--host HOST` a complete PATH is called at one of {named}."]
    verify = manifest.auth[0].verify
    base = manifest.api.base_url.rstrip("/")
    if verify is not None and verify.method == "GET" and verify.url.startswith(base + "/"):
        path = verify.url.removeprefix(base)
        lines += ["", "To see that it works:", "", f"    {command} call GET {path}"]
    if manifest.docs_url is not None:
        lines += ["", f"What can be called: {manifest.docs_url}"]
    return lines


def pack_skills(skills: Sequence[VmSkillManifest]) -> bytes:
    """A deterministic ``tar.xz`` of the skills' own folders (files with relative paths)."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for skill in sorted(skills, key=lambda s: s.skill_dir_name):
            for file in sorted(skill.write_files, key=lambda f: f.path):
                if file.path.startswith("/"):
                    continue
                entry = tarfile.TarInfo(f"{skill.skill_dir_name}/{file.path}")
                content = file.content.encode()
                entry.size, entry.mode = len(content), int(file.permissions, 8)
                archive.addfile(entry, io.BytesIO(content))
    data = raw.getvalue()
    # A dictionary as large as the data compresses as well as the preset's 64 MiB, which costs ten
    # times that in memory: too much for a small machine.
    dictionary = 1 << max(12, (len(data) - 1).bit_length())
    chain = [{"id": lzma.FILTER_LZMA2, "preset": lzma.PRESET_DEFAULT, "dict_size": dictionary}]
    return lzma.compress(data, filters=chain)


def skill_digest(skill: VmSkillManifest) -> str:
    """SHA-256 (hex) of the packed skill: what says whether a machine has it already."""
    return hashlib.sha256(pack_skills([skill])).hexdigest()


def read_skills(archive: bytes) -> Mapping[str, tuple[bytes, int]]:
    """The archive's files: ``folder/path`` to content and mode.

    Only plain files with relative paths are accepted, and no more than :data:`MAX_UNPACKED` bytes:
    the archive is code for the agent's user, but it is unpacked by somebody with more rights.
    Raises :class:`InvalidInput`.
    """
    found: dict[str, tuple[bytes, int]] = {}
    try:
        decompressor = lzma.LZMADecompressor()
        plain = decompressor.decompress(archive, max_length=MAX_UNPACKED + 1)
        if len(plain) > MAX_UNPACKED:
            raise InvalidInput("The skills archive unpacks to too much.")
        if not decompressor.eof:
            raise InvalidInput("The skills archive is damaged.")
        _refuse_holes(plain)
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as tar:
            for entry in tar:
                name = posixpath.normpath(entry.name)
                handle = tar.extractfile(entry) if entry.isreg() else None
                if handle is None or name != entry.name or name.startswith(("/", "..")):
                    raise InvalidInput("The skills archive holds something other than plain files.")
                if "/" not in name:
                    raise InvalidInput("The skills archive holds a file outside of any folder.")
                found[name] = (handle.read(), entry.mode & 0o755)
    except (tarfile.TarError, lzma.LZMAError, EOFError):
        raise InvalidInput("The skills archive is damaged.") from None
    return found


def unpack_skills(archive: bytes, target: Path) -> tuple[str, ...]:
    """Unpack below ``target``; answers the names of the skills' folders.

    Raises :class:`InvalidInput`; nothing is written before the whole archive has been read. The
    folders' modes are 0755 whatever the umask: the agent reads what somebody else unpacks.
    """
    found = read_skills(archive)
    for name, (content, mode) in found.items():
        folder = target
        for part in name.split("/")[:-1]:
            folder /= part
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)
        path = target / name
        path.write_bytes(content)
        path.chmod(mode)
    return tuple(sorted({name.split("/")[0] for name in found}))


def _refuse_holes(plain: bytes) -> None:
    """Refuse sparse files: a few bytes of one can stand for terabytes of zeros."""
    with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as tar:
        if any(entry.issparse() for entry in tar):
            raise InvalidInput("The skills archive holds something other than plain files.")


def by_claim(skills: Sequence[VmSkillManifest]) -> Mapping[str, list[str]]:
    """What each skill claims on the machine (file, unit, route, port) to the skills that do."""
    claims: dict[str, list[str]] = {}
    for skill in skills:
        own = {f"folder {skill.skill_dir_name}"}
        own |= {f"file {f.path}" for f in skill.write_files if f.path.startswith("/")}
        own |= {f"unit {s.name}" for s in skill.services}
        own |= {f"route {r.match_path}" for r in skill.caddy_routes}
        own |= {f"port {r.upstream_port}" for r in skill.caddy_routes}
        if skill.command:
            own.add(f"command {skill.command}")
        for claim in own:
            claims.setdefault(claim, []).append(skill.skill_dir_name)
    return claims
