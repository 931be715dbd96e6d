"""Which control plane a command talks to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aura_control.cli.output import Output
from aura_control.cli.remote import Remote, read_session
from aura_control.settings import load_settings

__all__ = ["DataDir", "remote"]

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where 'aura up' keeps its data (AURA_DATA_DIR).")
]


def remote(data_dir: Path | None, output: Output) -> Remote:
    """The control plane named by AURA_URL and AURA_TOKEN, else the one of the data directory."""
    settings = load_settings() if data_dir is None else load_settings(data_dir=data_dir)
    return Remote(read_session(settings.data_dir), output)
