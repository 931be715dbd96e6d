"""Compose a machine's user-data: at most 32 KiB, deterministic, nothing secret but the join token.

The document is one ``#cloud-config`` in JSON (which is YAML), gzipped and in base64: Hetzner's
datasource decodes that (cloud-init 22.4 to 26.2), and its limit of 32 KiB holds for the encoded
text. What of the skills does not fit is left to the daemon, which gets it after enrolment.
"""

from __future__ import annotations

import base64
import gzip
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aura_core.errors import InvalidInput
from aura_core.skills import VmSkillManifest, pack_skills
from cloudinit_templates import layout
from cloudinit_templates.claims import check_claims
from cloudinit_templates.escaping import yaml_text
from cloudinit_templates.files import archive_file, machine_files
from cloudinit_templates.plan import Plan

__all__ = ["MAX_USER_DATA", "Composed", "compose"]

MAX_USER_DATA = 32 * 1024
"""Bytes of ``user_data`` that Hetzner takes (API reference, "Create a Server")."""

_FURTHER_TRIES = 4
"""Each costs some 15 ms of packing, so that a hundred skills stay a matter of half a second."""


@dataclass(frozen=True, kw_only=True)
class Composed:
    """User-data, and what is in it. It holds the join token: hence the short repr."""

    user_data: str = field(repr=False)
    """``base64(gzip(#cloud-config))`` without white space."""
    raw: bytes = field(repr=False)
    """The gzip alone: what cloud-init's NoCloud takes, which decodes no base64."""
    cloud_config: Mapping[str, Any] = field(repr=False)
    skills_included: tuple[str, ...]
    left_to_daemon: tuple[str, ...]
    """Folder names of skills that the daemon has to be sent; their units and routes are in."""
    size: int
    """Bytes of ``user_data``."""
    warnings: tuple[str, ...] = ()


def compose(plan: Plan) -> Composed:
    """The user-data for ``plan``: a pure function. It computes: some 20 ms, up to a second
    where dozens of skills do not fit, so callers on an event loop give it a thread.

    Raises :class:`InvalidInput` when two parts claim the same thing, when a unit may not be, or
    when the rest does not fit even without the skills' folders; the message says what is large.
    """
    check_claims(plan)
    files = machine_files(plan)
    bare = _encode(_cloud_config(plan, files))
    if _length(bare) > MAX_USER_DATA:
        raise _too_large(files, _length(bare))
    included, config, raw = _fit(plan, files, bare)
    left = sorted({s.skill_dir_name for s in plan.skills} - {s.skill_dir_name for s in included})
    user_data = base64.b64encode(raw).decode()
    return Composed(
        user_data=user_data,
        raw=raw,
        cloud_config=config,
        skills_included=tuple(sorted(skill.skill_dir_name for skill in included)),
        left_to_daemon=tuple(left),
        size=len(user_data),
        warnings=_warnings(plan, left),
    )


def _warnings(plan: Plan, left: Sequence[str]) -> tuple[str, ...]:
    warnings = []
    if left:
        warnings.append(f"Does not fit and is left to the daemon: {', '.join(left)}.")
    if not plan.site_encrypted:
        warnings.append(
            f"The site {plan.site} is served without TLS: it must lie in a private network."
        )
    return tuple(warnings)


def _cloud_config(plan: Plan, files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    system = {"system": True, "no_create_home": True, "lock_passwd": True}
    shell = "/usr/sbin/nologin"
    return {
        "hostname": plan.hostname,
        "ssh_pwauth": False,
        "disable_root": True,
        "groups": ["aura", "agent"],
        # The list names nobody else on purpose: the image's default user does not come to be.
        "users": [
            {"name": "agent", "homedir": layout.AGENT_HOME, "primary_group": "agent",
             "shell": shell, **system},
            {"name": "aura", "homedir": "/var/lib/aura", "primary_group": "aura",
             "groups": "agent", "shell": shell, **system},
        ],
        "write_files": list(files),
        "runcmd": [["/bin/bash", f"{layout.SCRIPTS}/setup"]],
    }  # fmt: skip


def _encode(config: Mapping[str, Any]) -> bytes:
    return gzip.compress(b"#cloud-config\n" + yaml_text(config).encode() + b"\n", 9, mtime=0)


def _length(raw: bytes) -> int:
    return (len(raw) + 2) // 3 * 4


def _fit(
    plan: Plan, files: Sequence[Mapping[str, Any]], bare: bytes
) -> tuple[list[VmSkillManifest], dict[str, Any], bytes]:
    """The skills that go along: small ones first, so that most of them do; then by name.

    The next few are tried one by one: one that shares code with those chosen may still fit.
    """

    def attempt(skills: Sequence[VmSkillManifest]) -> tuple[dict[str, Any], bytes] | None:
        config = _cloud_config(plan, [*files, archive_file(pack_skills(skills))])
        raw = _encode(config)
        return (config, raw) if _length(raw) <= MAX_USER_DATA else None

    # Packing is nearly all that composing takes, so first what needs it once: most agents' skills
    # fit together, and then their order does not matter.
    best = attempt(plan.skills) if plan.skills else None
    if best is not None:
        return list(plan.skills), *best
    order = sorted(plan.skills, key=lambda skill: (_weight(skill), skill.skill_dir_name))
    tried: dict[int, tuple[dict[str, Any], bytes]] = {0: ({}, b"")}

    def fits(count: int) -> bool:
        if (found := attempt(order[:count])) is not None:
            tried[count] = found
        return found is not None

    most = _longest_prefix(max(len(order) - 1, 0), fits)
    chosen, best = order[:most], tried[most]
    for skill in order[most : most + _FURTHER_TRIES]:
        if (found := attempt([*chosen, skill])) is not None:
            chosen, best = [*chosen, skill], found
    return (chosen, *best) if chosen else ([], _cloud_config(plan, files), bare)


def _weight(skill: VmSkillManifest) -> int:
    """About what the skill's folder takes when it is packed; packing each to know would double
    what composing costs."""
    return len(zlib.compress("".join(file.content for file in skill.write_files).encode()))


def _longest_prefix(longest: int, fits: Callable[[int], bool]) -> int:
    """The largest n up to ``longest`` for which ``fits(n)``; 0 always does. Sizes grow with n,
    near enough."""
    low, high = 0, longest
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _too_large(files: Sequence[Mapping[str, Any]], size: int) -> InvalidInput:
    weights = sorted(
        (
            (_length(gzip.compress(str(file["content"]).encode(), 9)), file["path"])
            for file in files
        ),
        reverse=True,
    )
    largest = ", ".join(f"{path} ({weight} bytes)" for weight, path in weights[:3])
    return InvalidInput(
        f"User-data would have {size} bytes without any skill; {MAX_USER_DATA} are allowed. "
        f"Large are: {largest}.",
        fields={"config": f"too large: {largest}"},
        hint="Shorten the persona or the units, or have the daemon deliver them.",
    )
