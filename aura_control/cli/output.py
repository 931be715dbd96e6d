"""What commands print: tables for people, one JSON document for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from aura_core.errors import AuraError, ConfigurationError

__all__ = ["ExitCode", "Output"]


class ExitCode:
    """Exit codes that scripts can rely on."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where a command's answer goes. Progress and errors go to standard error, so that
    ``--json`` leaves exactly one document on standard output."""

    as_json: bool

    @property
    def console(self) -> Console:
        return Console(stderr=self.as_json, highlight=False, soft_wrap=True)

    def document(self, value: Any) -> None:
        """Print ``value`` as JSON, if that was asked for."""
        if self.as_json:
            typer.echo(json.dumps(value, indent=2, sort_keys=True, default=str))

    def line(self, text: str) -> None:
        """A line for people."""
        self.console.print(text)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table for people; nothing when JSON was asked for."""
        if self.as_json:
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    def error(self, error: AuraError) -> typer.Exit:
        """Report one of our own errors and make the exit to raise."""
        code = ExitCode.USAGE if isinstance(error, ConfigurationError) else ExitCode.FAILED
        return self.fail({"title": error.message, "hint": error.hint}, code)

    def fail(self, problem: Mapping[str, Any], code: int) -> typer.Exit:
        """Report a problem and make the exit to raise."""
        if self.as_json:
            typer.echo(json.dumps(dict(problem), indent=2, sort_keys=True, default=str))
        else:
            console = Console(stderr=True, highlight=False, soft_wrap=True)
            console.print(f"[bold red]error[/]: {problem.get('detail') or problem.get('title')}")
            for field, reason in (problem.get("fields") or {}).items():
                console.print(f"  {field}: {reason}", markup=False)
            if problem.get("hint"):
                console.print(f"  {problem['hint']}", markup=False)
        return typer.Exit(code)
