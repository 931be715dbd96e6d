"""Where a call may go, and where the credential goes in it: shared by broker and control plane.

Three checks stand between an agent and a provider, all here so that both sides judge alike:
the target's host must be one that the manifest names; its path must mean the same to us and to
the provider; and nothing the agent sends may take the credential's place or change the method.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from pydantic import SecretStr

from aura_core.credentials import BrokerBinding, fill
from aura_core.errors import InvalidInput, PermissionDenied
from aura_core.manifest import relocate

__all__ = ["FORWARDED_HEADERS", "OutgoingRequest", "Target", "place", "resolve_target"]

FORWARDED_HEADERS = frozenset(
    {"accept", "accept-language", "content-type", "idempotency-key", "if-match",
     "if-modified-since", "if-none-match", "if-unmodified-since", "prefer", "range"}
)  # fmt: skip
"""Headers an agent may set. A list of what is allowed, because the list of what is dangerous
(Authorization, Cookie, Host, X-HTTP-Method-Override, X-Forwarded-*, ...) is never complete."""

_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\#]")
_DOUBLE = re.compile(r"%25[0-9A-Fa-f]{2}")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A checked destination: ``url`` to call, and what the rules are judged by."""

    host: str
    path: str
    query: str
    url: str
    on_base_host: bool


@dataclass(frozen=True, kw_only=True)
class OutgoingRequest:
    """A request with the credential in it. Its repr shows method and host only."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)


def resolve_target(binding: BrokerBinding, url: str, *, host: str | None = None) -> Target:
    """Check where a call goes. ``url`` is absolute (https), or a path on ``host`` or the base URL.

    Raises :class:`PermissionDenied` (rule ``host``) for a host that the manifest does not name and
    :class:`InvalidInput` for a path that providers may read in another way than we do: dot
    segments, encoded twice, control characters, backslashes, fragments.
    """
    base = urlsplit(binding.base_url)
    if "://" in url.partition("?")[0]:
        try:
            parts = urlsplit(url)
        except ValueError:
            raise InvalidInput("This is no URL.") from None
        if parts.scheme not in ("https", base.scheme) or "@" in parts.netloc:
            raise InvalidInput("An absolute URL must be https and hold no user-info.")
        netloc, path, query = parts.netloc, parts.path or "/", parts.query
    else:
        path, _, query = url.partition("?")
        if not path.startswith("/") or path.startswith("//"):
            raise InvalidInput("A path begins with exactly one slash.")
        netloc = host or base.netloc
        if netloc == base.netloc:
            path = base.path.rstrip("/") + path
    if not _host_allowed(netloc, binding.hosts):
        raise PermissionDenied(
            f"{binding.provider} may not be called at this host: its manifest does not name it.",
            rule="host",
        )
    _check_path(path, query)
    scheme = base.scheme if netloc == base.netloc else "https"
    plain = urlunsplit((scheme, netloc, path, query, ""))
    return Target(
        host=netloc,
        path=path,
        query=query,
        url=relocate(binding.relocations, plain),
        on_base_host=netloc == base.netloc,
    )


def _host_allowed(netloc: str, hosts: Iterable[str]) -> bool:
    for pattern in hosts:
        if pattern == netloc:
            return True
        if pattern.startswith("*."):
            label, _, rest = netloc.partition(".")
            if rest == pattern[2:] and re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", label):
                return True
    return False


def _check_path(path: str, query: str) -> None:
    if _FORBIDDEN.search(path) or _FORBIDDEN.search(query):
        raise InvalidInput("The path holds white space, a control character, a backslash or '#'.")
    if not (path + query).isascii():
        raise InvalidInput("The path must be percent-encoded.")
    if _ESCAPE.search(path) or _DOUBLE.search(path):
        raise InvalidInput("The path is not encoded exactly once.")
    decoded = unquote(path)
    # What stands behind a semicolon is a parameter to some servers, so "..;x" is ".." to them.
    if any(part.partition(";")[0] in (".", "..") for part in re.split(r"[/\\]", decoded)):
        raise InvalidInput("The path holds a dot segment.")
    if "//" in decoded or any(ord(c) < 0x20 or ord(c) == 0x7F for c in decoded):
        raise InvalidInput("The path holds an empty segment or a control character.")


def place(
    binding: BrokerBinding,
    fields: Mapping[str, SecretStr],
    *,
    method: str,
    target: Target,
    headers: Mapping[str, str],
    body: bytes | None,
) -> OutgoingRequest:
    """Add the manifest's headers and the credential. What the agent sent never replaces either.

    Raises :class:`InvalidInput` when the caller names a parameter that the credential occupies, or
    for a header that HTTP cannot carry.
    """
    values = {name: secret.get_secret_value() for name, secret in fields.items()}
    sent = {k.lower(): v for k, v in headers.items() if k.lower() in FORWARDED_HEADERS}
    sent |= {k.lower(): v for k, v in binding.headers.items()}
    parts = urlsplit(target.url)
    asked = parse_qsl(parts.query, keep_blank_values=True)
    query = [(name, value) for name, value in asked if name not in binding.query]
    query += binding.query.items()
    # A relocated URL has the original host in front of the path.
    before, path = parts.path.removesuffix(target.path), target.path
    for placement in binding.placements:
        if placement.at == "basic":
            pair = f"{fill(placement.username, values)}:{fill(placement.password, values)}"
            sent["authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
            continue
        value, name = fill(placement.format, values), placement.name or ""
        if placement.at == "header":
            sent[name.lower()] = value
        elif placement.at == "query":
            if any(key == name for key, _ in query):
                raise InvalidInput(f"The query parameter {name!r} belongs to the credential.")
            query.append((name, value))
        elif placement.at == "path":
            path = _place_in_path(path, name, value)
        else:
            body = _place_in_body(body, sent.get("content-type", ""), name, value)
            sent.setdefault("content-type", "application/json")
    for name, value in sent.items():
        # A line break would end the header; anything beyond ASCII is read in more than one way.
        if not (value.isascii() and value.isprintable()):
            raise InvalidInput(f"The header {name} holds characters that no header can.")
    # The query is passed on byte for byte unless something was changed: re-encoding can change it.
    text = parts.query if query == asked else urlencode(query, quote_via=quote)
    url = urlunsplit((parts.scheme, parts.netloc, before + path, text, ""))
    return OutgoingRequest(method=method, url=url, headers=sent, body=body)


def _place_in_path(path: str, name: str, value: str) -> str:
    # Only the marker is decoded: decoding the rest would make path of what was part of a segment.
    marker = re.compile(rf"(\{{|%7B){re.escape(name)}(\}}|%7D)", re.IGNORECASE)
    placed = quote(value, safe=":")
    if marker.search(path):
        return marker.sub(lambda _: placed, path)
    return "/" + placed + path


def _place_in_body(body: bytes | None, content_type: str, name: str, value: str) -> bytes:
    if content_type.startswith("application/x-www-form-urlencoded"):
        try:
            pairs = parse_qsl((body or b"").decode(), keep_blank_values=True)
        except ValueError:
            raise InvalidInput("The body must be UTF-8: the credential goes into it.") from None
        if any(key == name for key, _ in pairs):
            raise InvalidInput(f"The body parameter {name!r} belongs to the credential.")
        return urlencode([*pairs, (name, value)]).encode()
    try:
        document = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise InvalidInput("The body must be JSON: the credential goes into it.") from None
    if not isinstance(document, dict) or name in document:
        raise InvalidInput(f"The body must be a JSON object without {name!r}.")
    return json.dumps({**document, name: value}).encode()
