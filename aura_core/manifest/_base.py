"""Ground shared by the manifest's parts: strictness, URLs, templates, parameter names."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

VARIABLE = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_PATH_PART = re.compile(r"\[(?P<index>[0-9]+)\]|(?P<key>[A-Za-z0-9_\-]+)")

Id = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{1,63}$")]
VariableName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")]
ParameterName = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class Frozen(BaseModel):
    """Immutable, no unknown keys: a misspelt key in a manifest is an error, not a silence."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


def template_variables(text: str) -> Iterator[str]:
    """Names of the ``{variables}`` in a template, in order."""
    return (match.group(1) for match in VARIABLE.finditer(text))


def is_loopback(host: str) -> bool:
    """True for ``localhost`` and literal loopback addresses; no name is resolved."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_url_template(text: str) -> str:
    """Accept an absolute https URL that may hold ``{variables}``; http only for loopback.

    Whether loopback http is allowed at all is the operator's choice, checked when manifests are
    loaded (:func:`aura_core.manifest.load_manifest`). A template may begin with a variable that
    holds scheme and host (``{instance_url}/services``). User-info is refused because it hides the
    host from a reader (``https://good.example@evil.example``).
    """
    if any(ord(c) <= 0x20 or ord(c) == 0x7F or c == "\\" for c in text):
        raise ValueError("holds white space, a control character or a backslash")
    if text.startswith("{"):
        if VARIABLE.match(text) is None:
            raise ValueError("begins with a malformed {variable}")
        return text
    parts = urlsplit(VARIABLE.sub("v", text))
    if parts.scheme not in ("https", "http"):
        raise ValueError("is not an absolute https URL")
    if not parts.hostname:
        raise ValueError("has no host")
    if "@" in parts.netloc:
        raise ValueError("holds user-info, which hides the host")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("uses plain http; only https is allowed (http for loopback only)")
    rest = VARIABLE.sub("", text)
    if "{" in rest or "}" in rest:
        raise ValueError("holds a malformed {variable}")
    return text


def check_host(text: str) -> str:
    """Accept ``host``, ``host:port`` or ``*.suffix``; lower case, may hold ``{variables}``."""
    plain = VARIABLE.sub("v", text)
    bare = plain.removeprefix("*.")
    if bare != bare.lower() or not re.fullmatch(
        r"(\[[0-9a-f:]+\]|[a-z0-9]([a-z0-9.-]*[a-z0-9])?)(:[0-9]{1,5})?", bare
    ):
        raise ValueError("is not a lower-case host name")
    if plain.startswith("*.") and bare.count(".") < 1:
        raise ValueError("is too wide: a wildcard needs at least two labels behind it")
    return text


def check_pattern(text: str) -> str:
    """Accept a regular expression: a wrong one must show here and not when somebody connects."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return text


def read_path(document: Any, path: str) -> Any:
    """What a :data:`JsonPath` leads to in a JSON document, or ``None``."""
    for part in _PATH_PART.finditer(path):
        index, key = part["index"], part["key"]
        if index is not None:
            fits = isinstance(document, list) and int(index) < len(document)
            document = document[int(index)] if fits else None
        else:
            document = document.get(key) if isinstance(document, dict) else None
    return document


UrlTemplate = Annotated[
    str, StringConstraints(min_length=3, max_length=2048), AfterValidator(check_url_template)
]
HostPattern = Annotated[
    str, StringConstraints(min_length=1, max_length=255), AfterValidator(check_host)
]
Pattern = Annotated[
    str, StringConstraints(min_length=1, max_length=512), AfterValidator(check_pattern)
]
JsonPath = Annotated[
    str,
    StringConstraints(
        pattern=r"^([A-Za-z0-9_\-]+|\[[0-9]{1,4}\])(\.[A-Za-z0-9_\-]+|\[[0-9]{1,4}\])*$"
    ),
]
"""A dotted path into a JSON answer: ``authed_user.access_token``, ``data[0].id``, ``[0].id``."""

HttpMethod = Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"]
