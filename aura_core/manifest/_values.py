"""Values for a manifest's variables: what may be put into a URL that gets a credential.

They come from users, callback URLs and answers of providers, and none of these is trusted to say
where a credential goes: a value that could change the host, the path or the user-info of a URL is
refused, and so is a name that leads into the operator's own network.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable

from aura_core.manifest._base import is_loopback
from aura_core.manifest._request import Variable

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DANGEROUS = re.compile(r"[^\x21-\x7e]|[@#/\\?%&:*{}]")
_PLAIN_PATH = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?")
_LONGEST = 253
_PRIVATE_SUFFIXES = ("local", "internal", "localhost", "home", "lan", "arpa", "intranet")


def wrong_value(
    variable: Variable,
    value: str,
    *,
    hosts: Iterable[str] = (),
    private_hosts: Collection[str] = (),
) -> str | None:
    """Why a value may not be used for the variable (without repeating it), or ``None``.

    ``hosts`` are the manifest's: a variable that holds scheme and host may only name one of them,
    unless it is the user's own server, that is: unless ``hosts`` holds the variable itself.
    ``private_hosts`` are names inside the operator's network that the operator allows.
    """
    if not value or len(value) > _LONGEST:
        return f"must have 1 to {_LONGEST} characters"
    if variable.choices and value not in variable.choices:
        return "must be one of: " + ", ".join(variable.choices)
    if variable.pattern is not None and re.fullmatch(variable.pattern, value) is None:
        return "does not have the expected form"
    if variable.url:
        return _wrong_url(variable, value, tuple(hosts), private_hosts)
    if variable.choices:
        return None
    if _DANGEROUS.search(value):
        return "holds a character that is not allowed"
    if variable.pattern is None and re.fullmatch(_LABEL, value) is None:
        return "does not have the expected form"
    if "." in value and not (is_public_host(value) or value in private_hosts):
        return "does not lead to a public host"
    return None


def _wrong_url(
    variable: Variable, value: str, hosts: tuple[str, ...], private_hosts: Collection[str]
) -> str | None:
    rest = value.removeprefix("https://")
    if rest == value:
        return "must begin with https://"
    host, slash, tail = rest.partition("/")
    if _DANGEROUS.search(host) or host != host.lower():
        return "must be https:// and a host name, nothing else"
    # Only the provider itself, in an answer of its own, may say that its API has a path.
    trusted = variable.provided_by in ("token_response", "discovery")
    if tail and not (trusted and _PLAIN_PATH.fullmatch(slash + tail)):
        return "must be https:// and a host name, nothing else"
    if not (is_public_host(host) or host in private_hosts):
        return "does not lead to a public host"
    open_to_any = any("{" + variable.name + "}" in pattern for pattern in hosts)
    if open_to_any or any(_matches(host, pattern) for pattern in hosts):
        return None
    return "is not a host that this provider's manifest names"


def _matches(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        label, _, rest = host.partition(".")
        return bool(label) and rest == pattern[2:]
    return host == pattern


def is_public_host(host: str) -> bool:
    """Whether a host may be somebody else's server, judged by its spelling.

    Refuses loopback and private addresses, names without a dot, and suffixes that are used inside
    networks. A public name may still resolve to a private address: that is for whoever connects.
    """
    if is_loopback(host):
        return False
    try:
        return ipaddress.ip_address(host.strip("[]")).is_global
    except ValueError:
        labels = host.rstrip(".").lower().split(".")
        # All-numeric labels are how resolvers spell addresses too (0x7f.1, 2130706433).
        numeric = re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]) is not None
        return len(labels) > 1 and not numeric and labels[-1] not in _PRIVATE_SUFFIXES
