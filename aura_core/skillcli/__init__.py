"""The command line of every skill: ``python -I -m aura_core.skillcli SKILL_DIR ...``.

    TOOL [--argument value ...]                            run one of the skill's tools
    call METHOD PATH [--json BODY] [--host HOST]           any other call to the provider
    --help                                                 list the tools

It runs as the agent's user and holds no credential: each call goes over the broker's Unix socket
(``AURA_BROKER_SOCKET``, default ``/run/aura/broker.sock``). Answers are JSON on standard output.
Exit codes: 0 done, 1 refused or failed (standard error says why), 2 used wrongly.
"""

from __future__ import annotations

from aura_core.skillcli._api import BrokerApi
from aura_core.skillcli._cli import main

__all__ = ["BrokerApi", "main"]
