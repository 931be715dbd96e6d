"""What commands print: tables for people, one JSON document for programs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import typer

from aura_core.errors import AuraError, ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# rich is imported where something is printed for a person at a terminal: a command whose answer
# goes into a pipe starts a quarter faster without it.

__all__ = ["AUDIT_CODES", "ExitCode", "Output"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class ExitCode(IntEnum):
    """Exit codes that scripts can rely on; ``aura --help`` lists them."""

    OK = 0
    FAILED = 1
    """It was tried and did not succeed."""
    USAGE = 2
    """The command line, a setting or a file is wrong; nothing was tried."""
    UNREACHABLE = 3
    """The control plane does not answer."""
    REFUSED = 4
    """The control plane does not accept the API token, or does not allow it."""
    YOURS = 5
    """Done as far as the command can: the answer says what is left for the operator."""


AUDIT_CODES = {
    "whole": 0,
    "altered": 10,
    "gap": 11,
    "truncated": 12,
    "rewritten": 13,
    "unverifiable": 14,
}
"""How ``aura audit verify`` ends, by what it found."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where a command's answer goes. With ``as_json`` all but one document goes to standard error:
    exactly that document is on standard output, whether the command succeeds or fails."""

    as_json: bool

    @property
    def console(self) -> Console:
        from rich.console import Console

        return Console(stderr=self.as_json, highlight=False, soft_wrap=True)

    def document(self, value: Any) -> None:
        """Print ``value`` as JSON, if that was asked for."""
        if self.as_json:
            typer.echo(json.dumps(value, indent=2, sort_keys=True, default=str))

    def line(self, text: str, *, lead: str = "", style: str = "bold") -> None:
        """A line for people, after a ``lead`` in that style."""
        self.console.print(_text(lead, style), _text(text), sep=" " if lead else "")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table for people; nothing when JSON was asked for."""
        if self.as_json:
            return
        if not sys.stdout.isatty():
            self._plain_table([columns, *rows])
            return
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*map(_text, row))
        self.console.print(table)

    def _plain_table(self, rows: Sequence[Sequence[str]]) -> None:
        """A line for each row, for pipes and files: nothing is folded to a width of nobody's."""
        shown = [[_harmless(cell).replace("\n", " ") for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        for row in shown:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            typer.echo("  ".join(cells).rstrip())

    def error(self, error: AuraError) -> typer.Exit:
        """Report one of our own errors and make the exit to raise."""
        code = ExitCode.USAGE if isinstance(error, ConfigurationError) else ExitCode.FAILED
        fields = getattr(error, "fields", None) or {}
        return self.fail(
            {"title": error.message, "hint": error.hint, **({"fields": fields} if fields else {})},
            code,
        )

    def fail(self, problem: Mapping[str, Any], code: ExitCode) -> typer.Exit:
        """Report a problem and make the exit to raise."""
        if self.as_json:
            self.document(dict(problem))
        else:
            from rich.console import Console

            console = Console(stderr=True, highlight=False, soft_wrap=True)
            words = str(problem.get("detail") or problem.get("title"))
            console.print(_text("error:", "bold red"), _text(words))
            for field, reason in (problem.get("fields") or {}).items():
                console.print(_text(f"  {field}: {reason}"))
            if problem.get("hint"):
                console.print(_text(f"  {problem['hint']}"))
        return typer.Exit(code)


def _text(words: str, style: str = "") -> Text:
    """Text as it is: no markup."""
    from rich.text import Text

    return Text(_harmless(words), style=style)


def _harmless(words: str) -> str:
    """Names and reasons come from users and providers: they may not drive the terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", words)
