"""Filling the templates of a manifest's endpoints for one step."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

from pydantic import SecretStr

from aura_core.adapter._values import Context
from aura_core.api import USER_AGENT
from aura_core.credentials import fill
from aura_core.errors import ConfigurationError, InvalidInput
from aura_core.manifest import OAuth2Auth, Variable, snake_case, wrong_value

__all__ = ["Values", "accept_variables", "oauth2", "reveal"]


class Values:
    """What templates of one step may name: variables, the operator's client, and secrets.

    Kept apart from plain dictionaries so that no repr shows it.
    """

    def __init__(self, ctx: Context, more: Mapping[str, str] | None = None) -> None:
        client: dict[str, str] = {}
        if ctx.client is not None:
            client["client_id"] = ctx.client.client_id
            if ctx.client.client_secret is not None:
                client["client_secret"] = ctx.client.client_secret.get_secret_value()
        self._provider = ctx.manifest.name
        self._known: dict[str, str] = {
            "user_agent": USER_AGENT,
            "timestamp": str(int(ctx.now().timestamp())),
            "random": secrets.token_urlsafe(16),
            **client,
            **ctx.variables,
            **(more or {}),
        }

    def __repr__(self) -> str:
        return f"Values({', '.join(sorted(self._known))})"

    def add(self, more: Mapping[str, str]) -> None:
        self._known.update(more)

    def get(self, name: str) -> str | None:
        return self._known.get(name)

    def text(self, template: str) -> str:
        """Raises :class:`InvalidInput` naming a variable that has no value."""
        try:
            return fill(template, self._known)
        except KeyError as error:
            raise InvalidInput(
                f"{self._provider} needs a value for {error.args[0]}.",
                fields={str(error.args[0]): "is required"},
            ) from None

    def texts(self, templates: Mapping[str, str]) -> dict[str, str]:
        return {name: self.text(value) for name, value in templates.items()}

    def document(self, template: Any) -> Any:
        """Fill every text in a JSON document."""
        if isinstance(template, str):
            return self.text(template)
        if isinstance(template, Mapping):
            return {name: self.document(value) for name, value in template.items()}
        if isinstance(template, list | tuple):
            return [self.document(value) for value in template]
        return template

    def xml(self, template: str) -> str:
        known = self._known
        self._known = {k: escape(v, {'"': "&quot;", "'": "&apos;"}) for k, v in known.items()}
        try:
            return self.text(template)
        finally:
            self._known = known


def reveal(fields: Mapping[str, SecretStr]) -> dict[str, str]:
    """Secrets for templates: only ever handed to :class:`Values`."""
    return {name: value.get_secret_value() for name, value in fields.items()}


def accept_variables(ctx: Context, found: Mapping[str, Any], *, provided_by: str) -> dict[str, str]:
    """Those of the declared variables that a callback or an answer yields, checked.

    A callback is a URL that somebody's browser opened, so its values are as hostile as any: one
    that is not what the manifest says is refused, never dropped. Raises :class:`InvalidInput`.
    """
    wanted: dict[str, Variable] = {
        v.name: v for v in ctx.method.variables if v.provided_by == provided_by
    }
    spelled = {snake_case(name): value for name, value in found.items()}
    accepted: dict[str, str] = {}
    for name, variable in wanted.items():
        value = spelled.get(name)
        if value is None:
            continue
        text = str(value) if isinstance(value, str | int) else ""
        reason = wrong_value(
            variable,
            text,
            hosts=ctx.manifest.hosts,
            private_hosts=ctx.manifest.private_hosts,
        )
        if reason is not None:
            raise InvalidInput(
                f"{ctx.manifest.name} answered with a {name} that cannot be used: it {reason}.",
                fields={name: reason},
            )
        accepted[name] = text.rstrip("/") if variable.url else text
    return accepted


def oauth2(ctx: Context) -> OAuth2Auth:
    """The method as the authorization code grant. Raises :class:`ConfigurationError`."""
    if not isinstance(ctx.method, OAuth2Auth):
        raise ConfigurationError(f"{ctx.manifest.name} does not connect by OAuth in this way.")
    return ctx.method
