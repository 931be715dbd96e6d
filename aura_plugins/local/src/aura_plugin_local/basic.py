"""The runtime ``basic``: it runs skills' commands by the clock. No model, nothing to install."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
)

from aura_core.errors import InvalidInput
from aura_core.runtime import AgentSpec, Readiness, RuntimePlan
from aura_core.skills import VmSystemdService, VmWriteFile

__all__ = ["CONFIG_FILE", "READINESS_SOCKET", "BasicConfig", "BasicRuntime", "Routine"]

CONFIG_FILE = "/var/lib/agent/runtime.json"
READINESS_SOCKET = "/run/agent/runtime.sock"
LONGEST_PERSONA = 20_000
"""Characters of one persona file: OpenClaw's limit, so that agents can move between runtimes."""

_UNIT = """\
[Unit]
Description=The runtime basic

[Service]
ExecStart=/opt/aura/bin/aura-runtime-basic
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
"""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Routine(_Value):
    """One thing that the agent does: a skill's command with its arguments."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    skill: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    """The command that the skill brings."""
    arguments: Annotated[
        tuple[Annotated[str, StringConstraints(max_length=4096)], ...], Field(max_length=64)
    ] = ()
    every_seconds: Annotated[int, Field(ge=1, le=31 * 86400)] | None = None
    """``None``: until it has succeeded once, and then never again."""
    timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 60

    @field_validator("arguments")
    @classmethod
    def _passable(cls, arguments: tuple[str, ...]) -> tuple[str, ...]:
        if any("\x00" in argument for argument in arguments):
            raise ValueError("an argument holds a NUL, which no program can be given")
        return arguments


class BasicConfig(_Value):
    """What an agent's ``config`` may say for this runtime."""

    routines: Annotated[tuple[Routine, ...], Field(max_length=32)] = ()

    @field_validator("routines")
    @classmethod
    def _distinct(cls, routines: tuple[Routine, ...]) -> tuple[Routine, ...]:
        names = [routine.name for routine in routines]
        if len(set(names)) != len(names):
            raise ValueError("two routines have the same name")
        return routines


class BasicRuntime:
    """See the module. Implements :class:`aura_core.runtime.Runtime`."""

    id = "basic"
    name = "Routines"

    def plan(self, spec: AgentSpec) -> RuntimePlan:
        """Raises :class:`InvalidInput` with ``fields`` below ``config`` and ``persona``."""
        config = _config(spec.config)
        files = [
            VmWriteFile(
                path=CONFIG_FILE,
                content=json.dumps(config.model_dump(mode="json"), indent=2) + "\n",
                permissions="0640",
            ),
            *_persona(spec.persona),
        ]
        return RuntimePlan(
            runtime=self.id,
            write_files=tuple(files),
            services=(VmSystemdService(name="runtime-basic", unit_file_content=_UNIT),),
            readiness=Readiness(socket=READINESS_SOCKET),
        )


def _config(given: Mapping[str, Any]) -> BasicConfig:
    try:
        return BasicConfig.model_validate(dict(given))
    except ValidationError as error:
        fields = {
            ".".join(map(str, ("config", *found["loc"]))): found["msg"]
            for found in error.errors(include_url=False, include_input=False)
        }
        raise InvalidInput(
            "The runtime basic cannot use this configuration.", fields=fields
        ) from None


def _persona(persona: Mapping[str, str]) -> list[VmWriteFile]:
    files, wrong = [], {}
    for name, text in sorted(persona.items()):
        stem = name.removesuffix(".md")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", stem):
            wrong[f"persona.{name[:40]}"] = "is not a plain file name"
        elif len(text) > LONGEST_PERSONA:
            wrong[f"persona.{name}"] = f"is longer than {LONGEST_PERSONA} characters"
        else:
            files.append(
                VmWriteFile(
                    path=f"/var/lib/agent/persona/{stem}.md", content=text, permissions="0640"
                )
            )
    if len({file.path for file in files}) != len(files):
        wrong["persona"] = "names one file twice"
    if wrong:
        raise InvalidInput("The persona cannot be used.", fields=wrong)
    return files
