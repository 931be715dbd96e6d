"""One provider's manifest: what its ways to authenticate share, and which of them can be declared.

A way that the schema does not take beside the best one is left out: a manifest offers only what
works. What can be declared in no way is listed as ``coming_soon`` with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from aura_core.errors import ManifestError
from aura_core.manifest import check_manifest, template_variables
from aura_plugin_catalogue.corrections import corrected
from aura_plugin_catalogue.environments import environments
from aura_plugin_catalogue.methods import NotDeclarable, method, substituted
from aura_plugin_catalogue.variables import declare, hosts, servers, variable, with_servers
from aura_plugin_catalogue.words import label

__all__ = ["document"]

Facts = Mapping[str, Any]


def document(provider: Facts, corrections: Facts) -> dict[str, Any]:
    """The manifest as a document that the schema accepts.

    Raises :class:`ManifestError` when neither the best way nor its being left for later
    can be declared: then the facts or a correction are wrong.
    """
    provider = {**provider, "id": corrections.get("id", provider["id"])}
    # Best first as they are, and the sort is stable: what sources agree on comes before the rest.
    ways = sorted(
        (way for way in provider["auth"] if way["id"] not in corrections.get("without", ())),
        key=lambda facts: (facts["id"] != corrections.get("first"), _agreed(facts) < _ENOUGH),
    )
    declared, reasons = _declared(provider, ways)
    if not declared:
        return _later(provider, ways[0], reasons[0])
    taken = declared[:1]
    manifest = _manifest(provider, taken, corrections)
    check_manifest(manifest, source=provider["id"])
    for facts, built in declared[1:]:
        more = [*taken, (facts, built)]
        tried = _manifest(provider, more, corrections)
        try:
            check_manifest(tried, source=provider["id"])
        except ManifestError:
            continue
        if _same_api(provider, taken[0][0], facts):
            manifest, taken = tried, more
    return manifest


def _declared(
    provider: Facts, ways: list[Facts]
) -> tuple[list[tuple[Facts, dict[str, Any]]], list[str]]:
    """The ways that can be declared, and why the others cannot."""
    found, reasons = [], []
    for facts in ways:
        try:
            found.append((facts, method(provider, facts)))
        except NotDeclarable as reason:
            reasons.append(str(reason))
    return found, reasons


def _agreed(facts: Facts) -> int:
    """How many independent sources agree on the way's main fact."""
    return max((n for n in facts["agreement"].values() if isinstance(n, int)), default=0)


def _same_api(provider: Facts, best: Facts, other: Facts) -> bool:
    base = provider["api_base_url"]
    return bool(best.get("api_base_url", base) == other.get("api_base_url", base))


def _manifest(
    provider: Facts,
    taken: list[tuple[Facts, dict[str, Any]]],
    corrections: Facts,
) -> dict[str, Any]:
    best = taken[0][0]
    base = _lower_host(best.get("api_base_url", provider["api_base_url"]))
    for name in template_variables(base):
        # A key that is part of the path is placed there by its placement, never by a template.
        if any(f["name"] == name for f in best.get("fields", ()) if f.get("secret")):
            base = base.partition("{" + name + "}")[0].rpartition("/")[0]
    auth = [_verified(facts, built, base) for facts, built in taken]
    built: dict[str, Any] = {
        **_card(provider),
        "single_source": [],
        "hosts": [],
        "api": _api(provider, best, base),
        "auth": auth,
        "skill": _skill(provider, auth),
        "environments": environments(provider, best, base),
        "mcp": [_mcp(server) for server in provider.get("mcp", ())],
    }
    built = corrected(built, corrections)
    whole = servers(base)
    built = with_servers(built, whole)
    for entry, (facts, _) in zip(built["auth"], taken, strict=True):
        declare(built, entry, facts, best, corrections, whole)
    built["single_source"] = _single(built["auth"], [facts for facts, _ in taken])
    built["hosts"] = corrections.get("hosts") or sorted(set(hosts(built)))
    return {key: value for key, value in built.items() if value not in (None, [], {}, "")}


def _card(provider: Facts) -> dict[str, Any]:
    return {
        "id": provider["id"],
        "name": provider["name"],
        "category": provider["category"],
        "description": f"Calls to the API of {provider['name']}.",
        "docs_url": provider.get("docs_url"),
        "website_url": provider.get("website_url"),
        "family": provider.get("family"),
        "tags": provider.get("tags"),
    }


def _later(provider: Facts, facts: Facts, reason: str) -> dict[str, Any]:
    base = provider["api_base_url"]
    kinds = ("oauth1", "aws_sigv4", "signature", "jwt", "app_installation")
    fields = [
        {"name": f["name"], "label": label(f["name"]), "secret": bool(f.get("secret"))}
        for f in facts.get("fields", ())
    ]
    entry: dict[str, Any] = {
        "strategy": facts["strategy"] if facts["strategy"] in kinds else "signature",
        "needs_code": reason,
        "variables": [variable(c["name"], c, False) for c in facts.get("config", ())],
    }
    built = {
        **_card(provider),
        "status": "coming_soon",
        "status_reason": reason,
        "hosts": [urlsplit(base).netloc],
        "api": {"base_url": base},
        "auth": [{**entry, **({"fields": fields} if fields else {})}],
    }
    built = {key: value for key, value in built.items() if value not in (None, [], {}, "")}
    check_manifest(built, source=provider["id"])
    return built


def _verified(facts: Facts, built: Facts, base: str) -> dict[str, Any]:
    """The method with a call that shows whether its credential works, where the facts know one:
    who the user is will do."""
    known = facts.get("verify")
    userinfo = facts.get("oauth2", {}).get("userinfo_url")
    if known is None:
        return {**built, **({"verify": {"url": _lower_host(userinfo)}} if userinfo else {})}
    url = known["url"] if "url" in known else base.rstrip("/") + known["path"]
    secret = {f["name"] for f in facts.get("fields", ()) if f.get("secret")} | {"api_key"}
    if secret & set(template_variables(url)) or "{" in _without_variables(url):
        return dict(built)
    call: dict[str, Any] = {"url": _lower_host(url)}
    if known["method"] != "GET":
        call["method"] = known["method"]
    if "body" in known:
        call["json_body"] = known["body"]
        if "query" in known["body"]:
            call["error"] = {"path": "errors"}  # GraphQL answers errors with 200
    if known.get("uses_quota"):
        call["billed"] = True
    if known.get("headers"):
        call["headers"] = {k: v for k, v in known["headers"].items() if k != "user-agent"}
    return {**built, "verify": substituted(call, facts)}


def _without_variables(url: str) -> str:
    for name in template_variables(url):
        url = url.replace("{" + name + "}", "")
    return url


def _lower_host(url: str) -> str:
    host = "" if url.startswith("{") else urlsplit(url).netloc
    return url.replace(host, host.lower(), 1) if host else url


def _single(auth: list[dict[str, Any]], ways: list[Facts]) -> list[str]:
    """Keys of what only one independent source names."""
    found = []
    for entry, facts in zip(auth, ways, strict=True):
        name = entry.get("id", entry["strategy"])
        if _agreed(facts) < _ENOUGH:
            found.append(f"auth.{name}")
        elif "verify" in entry and len(facts.get("verify", {}).get("sources", ())) < _ENOUGH:
            found.append(f"auth.{name}.verify")
    return found


_ENOUGH = 2


def _api(provider: Facts, best: Facts, base: str) -> dict[str, Any]:
    optional = {c["name"] for c in best.get("config", ()) if c.get("required") is False}
    headers = {
        name: value
        for name, value in best.get("api_headers", {}).items()
        if value != "application/json" and not optional & set(template_variables(value))
    }
    built: dict[str, Any] = {"base_url": base}
    if headers:
        built["headers"] = headers
    limit = _rate_limit(provider.get("rate_limit", {}))
    if limit:
        built["rate_limit"] = limit
    filled: dict[str, Any] = substituted(built, best)
    return filled


def _rate_limit(facts: Facts) -> dict[str, Any]:
    built: dict[str, Any] = {}
    if "rate_limit_status_codes" in facts:
        built["statuses"] = sorted({int(code) for code in facts["rate_limit_status_codes"]})
    for key in ("retry_after_header", "remaining_header", "reset_header"):
        if facts.get(key, "retry-after") != "retry-after":
            built[key] = facts[key]
    if "retry_hint_in_body" in facts:
        built["hint_path"] = facts["retry_hint_in_body"]
    return built


def _skill(provider: Facts, auth: list[dict[str, Any]]) -> dict[str, Any] | None:
    """A skill for calls to the API; none where a machine would hold the operator's secret."""
    if any("{client_secret}" in str(entry.get("placements")) for entry in auth):
        return None
    name = provider["id"].replace("_", "-")
    return {
        "dir_name": name,
        "command": name,
        "description": f"Authenticated calls to the API of {provider['name']}.",
    }


def _mcp(server: Facts) -> dict[str, Any]:
    kinds = {"dynamic": "dynamic", "static": "pre_registered"}
    built = {
        "url": server["url"],
        "resource": server.get("resource"),
        "authorization_url": server.get("authorize_url"),
        "token_url": server.get("token_url"),
        "registration_url": server.get("registration_url"),
        "client_registration": kinds.get(server.get("client_registration", "")),
    }
    return {key: value for key, value in built.items() if value is not None}
