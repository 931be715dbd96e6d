"""Domains in one spelling, so that comparing them is comparing text.

A pattern is a host name, which means exactly that host, or ``*.`` and a name, which means every
host below that name, however deep, and not the name itself. Ports are no part of either.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Annotated

import idna
from pydantic import AfterValidator, StringConstraints

__all__ = ["DomainPattern", "canonical_host", "canonical_pattern", "host_of", "is_within"]

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT = re.compile(r":[0-9]{1,5}\Z")
_LONGEST = 253


def canonical_host(text: str) -> str:
    """A host name as A-labels in lower case without its last dot; an IP address in its usual form,
    IPv6 without brackets. Raises ``ValueError`` for anything that is neither.

    Names that end in a number are how resolvers spell IPv4 addresses too (``0x7f.1``,
    ``017700001``, ``2130706433``): they are refused rather than understood, and so is what is
    percent-encoded.
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    name = text.lower() if text.isascii() else _a_labels(text)
    name = name.removesuffix(".")
    labels = name.split(".")
    if len(name) > _LONGEST or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("is not a host name")
    if _NUMERIC.fullmatch(labels[-1]):
        raise ValueError("is a number where a host name is expected")
    for label in labels:
        if label.startswith("xn--"):
            _a_labels(label)  # one that stands for no name is nobody's
    return name


def canonical_pattern(text: str) -> str:
    """A pattern of ``allowed_domains`` in the one spelling. Raises ``ValueError``."""
    if not text.startswith("*."):
        return canonical_host(text)
    name = canonical_host(text[2:])
    if "." not in name or _is_address(name):
        raise ValueError("is too wide: *. needs a name of at least two labels behind it")
    return f"*.{name}"


def host_of(netloc: str) -> str | None:
    """The host of ``host[:port]`` in the one spelling, or ``None`` where it has none."""
    if "@" in netloc:
        return None
    try:
        return canonical_host(_PORT.sub("", netloc))
    except ValueError:
        return None


def is_within(host: str, patterns: Iterable[str]) -> bool:
    """Whether a host is named by one of the patterns; both in the one spelling."""
    return any(
        host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
        for pattern in patterns
    )


def _a_labels(text: str) -> str:
    """RFC 5891 with the mapping of UTS 46, which is what browsers do to a typed name."""
    try:
        return idna.encode(text, uts46=True).decode()
    except (idna.IDNAError, UnicodeError):
        raise ValueError("is not an internationalised name that there can be") from None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


DomainPattern = Annotated[
    str, StringConstraints(min_length=1, max_length=255), AfterValidator(canonical_pattern)
]
