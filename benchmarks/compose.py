"""User-data for agents with twenty skills and with eight.

The limit of the size is what any way of sending the same files would need: the skills' texts
through xz, beside the machine's own files, through gzip and base64, which is the outer form that
the datasource asks for. The limit of the time is doing just that once. Whatever is more is the
archive's headers, the JSON around the files, and the search for as many skills as fit.
"""

from __future__ import annotations

import base64
import gzip
import lzma
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import SecretStr

from aura_core.runtime import Readiness, RuntimePlan
from aura_core.skills import VmSkillManifest, VmSystemdService, VmWriteFile
from benchmarks.measuring import Effort, Figure, by_turns, figure, milliseconds
from cloudinit_templates import MAX_USER_DATA, Composed, Plan, compose

__all__ = ["measure"]

_CODE, _TEXT = 6 * 1024, 3 * 1024
_SOME, _MANY = 8, 20

_UNIT = """\
[Unit]
Description=The agent's runtime

[Service]
ExecStart=/opt/aura/bin/runtime /var/lib/agent/runtime.json
Restart=always

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True, kw_only=True)
class _Case:
    """A plan, and the same bytes without anything around them."""

    plan: Plan
    composed: Composed
    machine: bytes
    skills: bytes


def measure(effort: Effort) -> Sequence[Figure]:
    """Sizes in bytes, times in milliseconds."""
    some, many = _case(_SOME), _case(_MANY)
    return [
        figure(
            f"{_MANY} skills, size",
            limit=f"what a server takes; {len(many.composed.skills_included)} of the skills are in",
            unit="bytes",
            aura=[many.composed.size],
            bare=[MAX_USER_DATA],
        ),
        _size(some),
        _size(many),
        _time(some, effort),
        _time(many, effort),
    ]


def _case(count: int) -> _Case:
    plan = _plan(count)
    composed = compose(plan)
    machine = "".join(
        entry["content"]
        for entry in composed.cloud_config["write_files"]
        if entry.get("encoding") is None
    )
    skills = "".join(
        file.content
        for skill in plan.skills
        if skill.skill_dir_name in composed.skills_included
        for file in skill.write_files
    )
    return _Case(plan=plan, composed=composed, machine=machine.encode(), skills=skills.encode())


def _size(case: _Case) -> Figure:
    included = len(case.composed.skills_included)
    return figure(
        f"{len(case.plan.skills)} skills, size for what is in",
        limit=f"xz, gzip, base64 of {included} skills and the machine's files",
        unit="bytes",
        aura=[case.composed.size],
        bare=[len(_bare(case.machine, case.skills))],
    )


def _time(case: _Case, effort: Effort) -> Figure:
    aura, bare = by_turns(
        effort.rounds,
        milliseconds(lambda: compose(case.plan), calls=1),
        milliseconds(lambda: _bare(case.machine, case.skills), calls=1),
    )
    return figure(
        f"{len(case.plan.skills)} skills, time",
        limit="that compression, once",
        unit="ms",
        aura=aura,
        bare=bare,
    )


def _bare(machine: bytes, skills: bytes) -> bytes:
    preset = lzma.PRESET_DEFAULT
    size = 1 << max(12, len(skills).bit_length())
    packed = lzma.compress(
        skills, filters=[{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": size}]
    )
    return base64.b64encode(gzip.compress(machine + base64.b64encode(packed), 9, mtime=0))


def _plan(count: int) -> Plan:
    return Plan(
        instance_id="i-0001",
        agent_id="a-0001",
        hostname="agent-0001",
        control_url="https://control.example.org",
        control_public_keys={"k1": "A" * 43},
        join_token=SecretStr("join-token-of-a-benchmark-0123456789abcdef"),
        runtime=RuntimePlan(
            runtime="basic",
            write_files=(VmWriteFile(path="/var/lib/agent/runtime.json", content="{}\n"),),
            services=(VmSystemdService(name="runtime", unit_file_content=_UNIT),),
            readiness=Readiness(socket="/run/agent/runtime.sock"),
        ),
        skills=tuple(_skill(number) for number in range(count)),
        site="agent-0001.example.org",
    )


def _skill(number: int) -> VmSkillManifest:
    """6 KB of code and 3 KB of text that compress about as well as such code does: three to one.

    Made up by a generator with a seed, so that every run and every Python composes the same.
    """
    chance = random.Random(number)
    name = f"provider{number:02d}-skill"
    return VmSkillManifest(
        skill_dir_name=name,
        provider=f"provider{number:02d}",
        command=f"provider{number:02d}",
        write_files=(
            VmWriteFile(path="SKILL.md", content=_filled(chance, _prose, _TEXT)),
            VmWriteFile(path="tools.py", content=_filled(chance, _function, _CODE)),
        ),
    )


_SYLLABLE_LIST = (
    "ac ber cal dor en fir gra hel in jor kal lis mer nor op pel qui ras sel tor un ver wil xen yor"
)
_STEM_LIST = (
    "account archive answer body calendar channel contact create cursor delete draft event fetch "
    "field file filter folder header history invoice issue item label limit list member message "
    "name note number offset order owner page parent path payment profile project query record "
    "reply report request result search send sheet start state status store subject table task "
    "team thread title token total type update upload user value vendor version webhook window"
)
_SYLLABLES, _STEMS = _SYLLABLE_LIST.split(), _STEM_LIST.split()


def _word(chance: random.Random) -> str:
    """Mostly a word that other skills use too, at times one of this provider's own."""
    if chance.random() < 0.4:
        return chance.choice(_STEMS)
    return "".join(chance.choices(_SYLLABLES, k=chance.randint(2, 3)))


def _prose(chance: random.Random) -> str:
    words = " ".join(_word(chance) for _ in range(chance.randint(8, 16)))
    heading = f"## {_word(chance)} {_word(chance)}"
    return f"{heading}\n\nUse it to {words}.\n- `--{_word(chance)}`: {words[:30]}\n\n"


def _function(chance: random.Random) -> str:
    arguments = [_word(chance) for _ in range(chance.randint(1, 4))]
    fields = ", ".join(f'"{_word(chance)}": {argument}' for argument in arguments)
    signature = ", ".join(f"{argument}: str | None = None" for argument in arguments)
    return (
        f"async def {_word(chance)}_{_word(chance)}(api: ToolApi, *, {signature}) -> ToolAnswer:\n"
        f'    """{_word(chance).title()} the {_word(chance)} of a {_word(chance)}."""\n'
        f'    answer = await api.request("{chance.choice(("GET", "POST", "PATCH"))}", '
        f'"/v1/{_word(chance)}s/{_word(chance)}", query={{{fields}}})\n'
        f'    return [{_word(chance)}["{_word(chance)}"] for {_word(chance)} in '
        f'answer["{_word(chance)}"]]\n\n\n'
    )


def _filled(chance: random.Random, piece: Callable[[random.Random], str], size: int) -> str:
    text = ""
    while len(text) < size:
        text += piece(chance)
    return text[:size]
