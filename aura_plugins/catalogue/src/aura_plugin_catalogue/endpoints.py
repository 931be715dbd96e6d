"""OAuth's endpoints, from the facts' words into the manifest's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aura_core.manifest import snake_case

__all__ = ["authorization", "refresh_tokens", "revocation", "token"]

Facts = Mapping[str, Any]

_PKCE = {"required": "required", "unsupported": "omit"}
_KINDS = {"timestamp": "epoch_seconds", "timestamp_and_seconds": "epoch_seconds"}


def authorization(oauth: Facts) -> dict[str, Any]:
    """``[auth.authorization]``."""
    callback = oauth.get("callback", {})
    built: dict[str, Any] = {
        "url": oauth["authorize_url"],
        "fragment": oauth.get("authorize_url_fragment"),
        "params": oauth.get("authorize_params"),
        "renames": {**oauth.get("authorize_param_renames", {})},
        "scope_delimiter": oauth.get("scope_separator"),
        "user_scope_param": oauth.get("user_scope_param"),
        "default_scopes": oauth.get("default_scopes"),
        "offline_scope": oauth.get("offline_scope"),
        "pkce": _PKCE.get(oauth.get("pkce", "")),
        "code_param": callback.get("code_param"),
        "callback_metadata": callback.get("metadata"),
        "issuer": oauth.get("issuer"),
    }
    if "client_id_param" in oauth:
        built["renames"]["client_id"] = oauth["client_id_param"]
    if "redirect_uri_is_alias" in oauth:
        built["params"] = {**(built["params"] or {}), "redirect_uri": "{redirect_alias}"}
    return _kept(built)


def token(oauth: Facts) -> dict[str, Any]:
    """``[auth.token]``."""
    ways = oauth.get("token_auth_methods", ["client_secret_post"])
    query = oauth.get("token_method") == "GET"
    headers = dict(oauth.get("token_headers", {}))
    headers.pop("accept", None)  # JSON is what is asked for anyway
    built: dict[str, Any] = {
        "url": oauth["token_url"],
        "method": "GET" if query else None,
        "body": "query" if query else _unless(oauth.get("token_body_format"), "form"),
        "auth": _unless(ways[0], "client_secret_post"),
        "also_accepts": ways[1:],
        "params": dict(oauth.get("token_params", {})),
        "headers": headers,
        "renames": {**oauth.get("token_param_renames", {})},
        "grant_type": oauth.get("grant_type"),
        "mtls": oauth.get("mtls"),
    }
    if "client_id_param" in oauth:
        built["renames"]["client_id"] = oauth["client_id_param"]
    if "redirect_uri_is_alias" in oauth:
        built["params"]["redirect_uri"] = "{redirect_alias}"
    return _kept({**built, "response": _response(oauth)})


def _response(oauth: Facts) -> dict[str, Any]:
    told = oauth.get("token_response", {})
    kind = told.get("expires_is") or told.get("expires_unit")
    metadata = told.get("metadata", [])
    if isinstance(metadata, Mapping):
        metadata = list(metadata.values())
    return _kept(
        {
            "access_token_path": told.get("access_token_path"),
            "refresh_token_path": told.get("refresh_token_path"),
            "expires_path": told.get("expires_path"),
            "expires_kind": _KINDS.get(kind, kind) if kind else None,
            "assumed_lifetime": _assumed(oauth),
            "alternate_container": told.get("alternate_container"),
            "metadata": {snake_case(path): path for path in metadata},
            "format": "auto" if "token_response_content_type" in oauth else None,
        }
    )


def _assumed(oauth: Facts) -> int | None:
    """How long a token lives when the answer does not say.

    Where a refresh token is the app's own choice, a token without expiry is one that stays: to
    assume an end would ask users to connect again for nothing.
    """
    life: int | None = oauth.get("lifetimes", {}).get("access_s")
    chosen = oauth.get("refresh_token") in ("optional", "partners_only", None)
    silent = oauth.get("token_response", {}).get("no_expires_in", False)
    return None if chosen and silent else life


_REFRESH: Mapping[str, Facts] = {
    "rotating": {"rotation": "single_use"},
    "reusable": {"rotation": "none", "retry_refresh": "safe"},
    "optional": {"requires": "app_setting"},
    "partners_only": {"requires": "approval"},
    "none": {"mode": "none"},
    "exchange": {"mode": "exchange"},
}


def refresh_tokens(oauth: Facts) -> dict[str, Any]:
    """``[auth.refresh]``."""
    built: dict[str, Any] = dict(_REFRESH.get(oauth.get("refresh_token", ""), {}))
    params = dict(oauth.get("refresh_params", {}))
    if built.get("mode") == "exchange":
        carried = [name for name, value in params.items() if value == "{access_token}"]
        for name in carried:
            built["token_param"] = name
            del params[name]
    built |= {
        "url": oauth.get("refresh_url"),
        "method": _unless(oauth.get("refresh_method"), "POST"),
        "params": params,
        "lifetime": oauth.get("lifetimes", {}).get("refresh_s"),
    }
    return _kept(built)


def revocation(oauth: Facts) -> dict[str, Any]:
    """``[auth.revocation]``, as RFC 7009 has it: the client authenticates as it does for tokens."""
    way = oauth.get("token_auth_methods", ["client_secret_post"])[0]
    known = way in ("client_secret_post", "client_secret_basic", "none")
    return _kept(
        {
            "url": oauth["revoke_url"],
            "auth": _unless(way if known else "client_secret_post", "client_secret_post"),
        }
    )


def _unless(value: Any, usual: Any) -> Any:
    return None if value == usual else value


def _kept(table: Facts) -> dict[str, Any]:
    """What says something: a key left out means what the RFC says."""
    return {key: value for key, value in table.items() if value not in (None, "", [], {}, ())}
