"""One way to authenticate, from the facts' words into the manifest's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aura_core.manifest import snake_case, template_variables
from aura_plugin_catalogue.endpoints import authorization, refresh_tokens, revocation, token
from aura_plugin_catalogue.words import label

__all__ = ["NotDeclarable", "method", "substituted"]

Facts = Mapping[str, Any]


class NotDeclarable(Exception):
    """The way needs code; its text says why."""


_WHY = {
    "aws_sigv4": "Requests are signed with AWS Signature Version 4, which needs an adapter.",
    "oauth1": "OAuth 1.0a signs every request, which needs an adapter.",
    "app_installation": "An app's installation is authorized with a signed key: an adapter's work.",
    "token_exchange": "The login takes calls of the provider's own kind, which need an adapter.",
}


def method(provider: Facts, facts: Facts) -> dict[str, Any]:
    """The table of ``[[auth]]``. Raises :class:`NotDeclarable`."""
    strategy = facts["strategy"]
    build = _BUILDERS.get(strategy)
    if build is None or facts.get("needs_code"):
        raise NotDeclarable(_WHY.get(strategy, "Its requests are signed, which needs an adapter."))
    if any(entry["name"] == "environment" for entry in facts.get("config", ())):
        raise NotDeclarable("A variable called environment chooses among the manifest's own.")
    built = {"strategy": strategy, **build(provider, facts)}
    if facts["id"] != strategy:
        built = {"id": facts["id"], **built}
    placements = [_placement(entry) for entry in facts.get("placement", ())]
    if placements and placements != _DEFAULTS.get(strategy):
        built["placements"] = placements
    captured = _captured(facts, built)
    if captured:
        built["discover"] = captured
    filled: dict[str, Any] = substituted(built, facts)
    return filled


def _captured(facts: Facts, built: Facts) -> list[dict[str, Any]]:
    """The follow-up call, and what of its answer becomes metadata and variables."""
    found = facts.get("discover")
    if found is None:
        return []
    metadata = {
        snake_case(name.replace("[]", "")): name.replace("[]", "[0]") for name in found["yields"]
    }
    call: dict[str, Any] = {"url": found["url"], "metadata": metadata}
    return [call if found["method"] == "GET" else {**call, "method": found["method"]}]


def substituted(value: Any, facts: Facts) -> Any:
    """The table with those variables filled in that are no choice of anybody's."""
    fixed = {
        entry["name"]: entry["default"]
        for entry in facts.get("config", ())
        if entry.get("default") and entry.get("provided_by") == "automatic"
    }
    # A version is a fact too: whoever wants another one changes the manifest.
    fixed |= {
        entry["name"]: entry["default"]
        for entry in facts.get("config", ())
        if entry.get("default") and entry["name"] == "version"
    }
    return _fill(value, fixed)


def _fill(value: Any, fixed: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for name, text in fixed.items():
            value = value.replace("{" + name + "}", text)
        return value
    if isinstance(value, Mapping):
        return {key: _fill(inner, fixed) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner, fixed) for inner in value]
    return value


def _oauth2(provider: Facts, facts: Facts) -> dict[str, Any]:
    oauth = facts["oauth2"]
    name = _client_name(provider)
    built: dict[str, Any] = {"client": {"id_env": f"{name}_CLIENT_ID"}}
    if oauth.get("token_auth_methods", [""])[0] != "none" or "client_secret" in str(
        facts.get("placement")
    ):
        built["client"]["secret_env"] = f"{name}_CLIENT_SECRET"
    optional = {
        "scopes": oauth.get("example_scopes"),
        "introspection_url": oauth.get("introspect_url"),
        "device_authorization_url": oauth.get("device_authorization_url"),
    }
    built |= {key: value for key, value in optional.items() if value}
    built["authorization"] = authorization(oauth)
    built["token"] = token(oauth)
    refresh = refresh_tokens(oauth)
    if refresh:
        built["refresh"] = refresh
    if "revoke_url" in oauth:
        built["revocation"] = revocation(oauth)
    if "exchange_url" in oauth:
        built["after_exchange"] = [_long_lived(oauth)]
    return built


def _long_lived(oauth: Facts) -> dict[str, Any]:
    """The call that trades the first token, good for an hour, for one that lives for weeks."""
    params = {
        "grant_type": oauth["exchange_grant"],
        "client_secret": "{client_secret}",
        "access_token": "{access_token}",
    }
    captures = {"access_token": "access_token", "expires_in": "expires_in"}
    return {
        "url": oauth["exchange_url"],
        "method": "GET",
        "body": "query",
        "params": params,
        "captures": captures,
    }


def _client_name(provider: Facts) -> str:
    """Environment variables of one registered app serve all products of its family."""
    family = provider.get("family")
    return str(family if family in _FAMILIES else provider["id"]).upper()


_FAMILIES = frozenset({"atlassian", "google", "microsoft", "zoho"})


def _client_credentials(provider: Facts, facts: Facts) -> dict[str, Any]:
    oauth = facts["oauth2"]
    built: dict[str, Any] = {"token": token(oauth)}
    if oauth.get("default_scopes"):
        built["scopes"] = list(oauth["default_scopes"])
    if oauth.get("scope_separator", " ") != " ":
        built["scope_delimiter"] = oauth["scope_separator"]
    # What only a parameter holds is no part of a URL: it is typed in beside the client.
    in_params = set(_names(oauth.get("token_params", {})))
    urls = set(_names([oauth["token_url"], provider["api_base_url"]]))
    extra = [entry for entry in facts.get("config", ()) if entry["name"] in in_params - urls]
    if extra:
        built["fields"] = [
            {"name": "client_id", "label": "Client ID", "secret": False},
            {"name": "client_secret", "label": "Client secret"},
            *({"name": e["name"], "label": label(e["name"]), "secret": False} for e in extra),
        ]
    return built


def _typed(provider: Facts, facts: Facts) -> dict[str, Any]:
    """An API key or HTTP Basic: what is typed in goes into the request."""
    given = {entry["name"]: entry for entry in facts.get("fields", ())}
    placed = set(_names(facts.get("placement", [])))
    config = {entry["name"]: {**entry, "secret": False} for entry in facts.get("config", ())}
    wanted = {**given, **{name: config[name] for name in sorted(placed - set(given) & set(config))}}
    if list(wanted) == ["api_key"] and facts["strategy"] == "api_key":
        return {}
    return {"fields": [_field(entry) for entry in wanted.values()]}


def _field(entry: Facts) -> dict[str, Any]:
    built: dict[str, Any] = {"name": entry["name"], "label": label(entry["name"])}
    if not entry.get("secret", False):
        built["secret"] = False
    if entry.get("required") is False:
        built["required"] = False
    return built


def _placement(entry: Facts) -> dict[str, Any]:
    built: dict[str, Any] = {"at": entry["in"]}
    if entry["in"] == "path":
        # "/bot{api_key}": the segment in front of every path of the API.
        return {"at": "path", "name": "credential", "format": entry["format"].lstrip("/")}
    for key in ("name", "format", "username", "password"):
        if entry.get(key):
            built[key] = entry[key]
    return built


_BEARER = {"at": "header", "name": "Authorization", "format": "Bearer {access_token}"}
_KEY = {"at": "header", "name": "Authorization", "format": "Bearer {api_key}"}
_DEFAULTS = {"oauth2": [_BEARER], "oauth2_client_credentials": [_BEARER], "api_key": [_KEY]}
_BUILDERS: Mapping[str, Callable[[Facts, Facts], dict[str, Any]]] = {
    "oauth2": _oauth2,
    "oauth2_client_credentials": _client_credentials,
    "api_key": _typed,
    "basic": _typed,
}


def _names(value: Any) -> list[str]:
    if isinstance(value, str):
        return list(template_variables(value))
    if isinstance(value, Mapping):
        value = list(value.values())
    return [name for inner in value for name in _names(inner)] if isinstance(value, list) else []
