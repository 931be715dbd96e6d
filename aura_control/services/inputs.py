"""What a user gives to connect: the manifest's variables and key fields, checked.

Variables become part of URLs that get credentials, so a value that could change the host, the path
or the user-info of one is refused, and so is a host inside the operator's own network: otherwise
whoever may connect an account could make the control plane call any address that it can reach.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from pydantic import SecretStr

from aura_core.credentials import fill
from aura_core.errors import InvalidInput
from aura_core.manifest import (
    AuthMethod,
    KeyField,
    Manifest,
    OAuth2Auth,
    is_public_host,
    template_variables,
    wrong_value,
)

__all__ = ["check_fields", "check_variables"]


def check_fields(method: AuthMethod, given: Mapping[str, str]) -> dict[str, SecretStr]:
    """The key fields as the manifest describes them. Raises InvalidInput naming every wrong one;
    a message never repeats a value."""
    known: dict[str, KeyField] = {field.name: field for field in getattr(method, "fields", ())}
    in_headers = _named_in_headers(method)
    wrong = {name: "is not a field of this provider" for name in given if name not in known}
    for name, field in known.items():
        reason = _wrong_field(field, given.get(name, ""), ascii_only=name in in_headers)
        if reason:
            wrong[name] = reason
    if wrong:
        raise InvalidInput("Some fields cannot be used.", fields=wrong)
    return {name: SecretStr(value) for name, value in given.items() if value}


def _named_in_headers(method: AuthMethod) -> frozenset[str]:
    return frozenset(
        name
        for placement in method.placements
        if placement.at == "header"
        for name in template_variables(placement.format)
    )


def _wrong_field(field: KeyField, value: str, *, ascii_only: bool) -> str | None:
    if not value:
        return "is required" if field.required else None
    if len(value) > field.max_length:
        return f"is longer than {field.max_length} characters"
    # A line break would end the header that the key is put in. PEM keys are the exception.
    control = any(ord(character) < 0x20 or ord(character) == 0x7F for character in value)
    if control and not value.startswith("-----BEGIN "):
        return "holds a control character"
    # RFC 9110 §5.5: a header's value is ASCII. Half of a surrogate pair is no text anywhere.
    if (ascii_only and not value.isascii()) or any("\ud800" <= c <= "\udfff" for c in value):
        return "holds a character that cannot be sent"
    if field.pattern is not None and re.fullmatch(field.pattern, value) is None:
        return "does not have the expected form"
    return None


def check_variables(
    manifest: Manifest, method: AuthMethod, given: Mapping[str, str]
) -> dict[str, str]:
    """The values that the user provides for the manifest's templates, with defaults.

    Raises InvalidInput naming every wrong one.
    """
    wanted = {v.name: v for v in method.variables if v.provided_by == "user"}
    wrong = {name: "is not a parameter here" for name in given if name not in wanted}
    values: dict[str, str] = {}
    for name, variable in wanted.items():
        value = given.get(name) or variable.default
        if not value:
            if variable.required:
                wrong[name] = "is required"
            continue
        reason = wrong_value(
            variable, value, hosts=manifest.hosts, private_hosts=manifest.private_hosts
        )
        if reason is not None:
            wrong[name] = reason
        values[name] = value
    if not wrong:
        wrong = _private_hosts(manifest, method, values)
    if wrong:
        raise InvalidInput(f"{manifest.name} cannot be connected like this.", fields=wrong)
    return values


def _private_hosts(
    manifest: Manifest, method: AuthMethod, values: Mapping[str, str]
) -> dict[str, str]:
    """Variables that lead to a host which is not a public name, put into their templates: there
    a value can be harmless by itself (``localhost``)."""
    wrong: dict[str, str] = {}
    for template in _urls(manifest, method):
        names = [name for name in template_variables(template) if name in values]
        if not names or any(name not in values for name in template_variables(template)):
            continue
        host = urlsplit(fill(template, values)).hostname or ""
        fixed = not any(
            name in template_variables(urlsplit(template).netloc or template) for name in names
        )
        if not (fixed or is_public_host(host) or host in manifest.private_hosts):
            wrong[names[0]] = "does not lead to a public host"
    return wrong


def _urls(manifest: Manifest, method: AuthMethod) -> Iterator[str]:
    yield manifest.api.base_url
    yield from (call.url for call in (method.verify, *method.discover) if call is not None)
    if isinstance(method, OAuth2Auth):
        yield method.authorization.url
    token = getattr(method, "token", None)
    if token is not None:
        yield token.url
    yield from (step.url for step in getattr(method, "steps", ()))
