"""Escapes for the files that are composed, and templates that let no value go without one."""

from __future__ import annotations

import functools
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from aura_core.errors import InvalidInput

__all__ = ["Escaped", "render", "yaml_text"]


class Escaped(str):
    """Text that is safe where its filter says: nothing else may be printed by a template."""

    __slots__ = ()


_CONTROL = re.compile(r"[\x00-\x1f\x7f\x80-\x9f\u2028\u2029]")
_YAML_UNPRINTABLE = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def yaml_text(value: object) -> str:
    """``value`` as one JSON document that every YAML parser reads as JSON parsers do.

    YAML 1.2 §1.3 calls JSON a subset; PyYAML (YAML 1.1) differs in two points. Characters outside
    the basic plane must not be written as surrogate pairs, hence ``ensure_ascii=False``; and
    characters that YAML takes for line breaks or calls unprintable must be written as escapes.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
    return _YAML_UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _one_line(text: str, where: str) -> str:
    if _CONTROL.search(text):
        raise InvalidInput(f"A value for {where} holds control characters.")
    return text


def _shell(text: str) -> Escaped:
    return Escaped(shlex.quote(_one_line(text, "a shell script")))


def _python(text: str) -> Escaped:
    return Escaped(ascii(text))


def _unit(text: str) -> Escaped:
    """One value of a unit: no line break, no specifier, no line continuation."""
    text = _one_line(text, "a systemd unit")
    if text.endswith("\\"):
        raise InvalidInput("A value for a systemd unit ends with a backslash.")
    return Escaped(text.replace("%", "%%"))


def _caddy(text: str) -> Escaped:
    """One token of a Caddyfile. Braces are Caddy's placeholders even within quotes: refused."""
    text = _one_line(text, "the web server")
    if not text or re.search(r"[\s{}\"`#]", text):
        raise InvalidInput(f"The web server's configuration cannot hold {text!r}.")
    return Escaped(text)


def _caddy_prefix(text: str) -> Escaped:
    """The part of a token before a placeholder; it may be empty."""
    return _caddy(text) if text else Escaped("")


def _verbatim(text: str) -> Escaped:
    """Text that its maker has checked for the place where it stands."""
    return Escaped(text)


def _only_escaped(value: Any) -> Any:
    if not isinstance(value, Escaped | int):
        raise TypeError("a template prints a value without an escape")
    return value


@functools.cache
def _environment() -> Environment:
    environment = Environment(  # noqa: S701 - nothing here is HTML; _only_escaped is the guard
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        finalize=_only_escaped,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        shell=_shell,
        python=_python,
        unit=_unit,
        caddy=_caddy,
        caddy_prefix=_caddy_prefix,
        verbatim=_verbatim,
    )
    return environment


def render(template: str, values: Mapping[str, object]) -> str:
    """The template's text. Raises :class:`InvalidInput` for a value that cannot stand there."""
    return _environment().get_template(template).render(values)
