"""The variables of a manifest: which ones its templates name, and which hosts they make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from aura_core.manifest import template_variables
from aura_plugin_catalogue.words import label

__all__ = ["declare", "hosts", "servers", "variable", "with_servers"]

Facts = Mapping[str, Any]


def servers(base: str) -> set[str]:
    """Variables that stand for the whole host of the API."""
    return {name for name in template_variables(base) if urlsplit(base).netloc == f"{{{name}}}"}


def with_servers(value: Any, names: set[str]) -> Any:
    """The document with ``https://{host}`` written as ``{host}``: such a variable holds scheme
    and host, so that its values are checked as a URL's and against the manifest's hosts."""
    if isinstance(value, str):
        for name in names:
            value = value.replace(f"https://{{{name}}}", f"{{{name}}}")
        return value
    if isinstance(value, Mapping):
        return {key: with_servers(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_servers(inner, names) for inner in value]
    return value


def declare(
    built: dict[str, Any],
    entry: dict[str, Any],
    facts: Facts,
    best: Facts,
    corrections: Facts,
    names_of_servers: set[str],
) -> None:
    """Give the method the variables that its templates, and those of the API, name."""
    config = {c["name"]: c for way in (best, facts) for c in way.get("config", ())}
    fields = {f["name"] for f in entry.get("fields", ())}
    said = corrections.get("variables", {})
    names = dict.fromkeys(_mentioned([built["api"], entry]))
    variables = []
    for name in names:
        if name in fields or not (name in config or name in said):
            continue
        declared = variable(name, config.get(name, {"name": name}), name in names_of_servers)
        # The key itself says it: no follow-up call is needed, whatever another way takes.
        if declared.get("provided_by") != "api_key_suffix":
            declared |= said.get(name, {})
        if declared.get("provided_by") == "discovery" and not entry.get("discover"):
            declared = {"name": name, "label": label(name)}
        variables.append(declared)
    if built.get("environments") and entry is built["auth"][0]:
        choices = [environment["id"] for environment in built["environments"]]
        variables.append({"name": "environment", "choices": choices, "required": False})
    if variables:
        entry["variables"] = variables


def variable(name: str, config: Facts, server: bool) -> dict[str, Any]:
    built: dict[str, Any] = {"name": name}
    source = config.get("provided_by", "user")
    if source in ("callback", "token_response", "api_key_suffix"):
        built["provided_by"] = source
    elif source == "automatic":
        built["provided_by"] = "discovery"
    else:
        built["label"] = label(name)
    scheme = "https://" if server else ""
    if config.get("default") is not None:
        built["default"] = scheme + config["default"]
    if config.get("enum"):
        built["choices"] = [scheme + choice for choice in config["enum"]]
    if server or config.get("type") == "url":
        built["url"] = True
    return built


def _mentioned(value: Any) -> Iterator[str]:
    for text in _strings(value):
        yield from template_variables(text)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def hosts(built: Facts) -> Iterator[str]:
    """Hosts of the calls that carry the credential, and none besides."""
    urls = [built["api"]["base_url"]]
    for entry in built["auth"]:
        calls = [entry.get("verify"), *entry.get("discover", ())]
        urls += [call["url"] for call in calls if call is not None]
    choices = {
        variable["name"]: variable.get("choices", [])
        for entry in built["auth"]
        for variable in entry.get("variables", ())
    }
    for url in urls:
        name = url[1:].partition("}")[0]
        if not url.startswith("{"):
            yield urlsplit(url).netloc
        elif choices.get(name):
            yield from (urlsplit(choice).netloc for choice in choices[name])
        else:
            yield f"{{{name}}}"  # the user's own server
