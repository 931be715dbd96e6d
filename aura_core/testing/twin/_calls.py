"""A request to the twin, taken apart: which provider's host, which endpoint, which parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request

from aura_core.manifest import template_variables

__all__ = ["Asked", "matches", "read_request", "standard", "without_segment"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """``host`` and ``path`` are the original provider's."""

    method: str
    host: str
    path: str
    raw_path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def params(self) -> dict[str, str]:
        """Parameters of query and body (form or JSON) together, as texts."""
        return {**self.query, **self.form, **self.document}

    @property
    def form(self) -> dict[str, str]:
        if "json" in self.headers.get("content-type", ""):
            return {}
        return dict(parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True))

    @property
    def document(self) -> dict[str, str]:
        try:
            told: Any = json.loads(self.body) if self.body else {}
        except ValueError:
            return {}
        items = told.items() if isinstance(told, dict) else ()
        return {str(name): str(value) for name, value in items}


async def read_request(request: Request) -> Asked:
    """The first path segment is the provider's host, the rest its path."""
    raw = request.scope.get("raw_path") or request.url.path.encode()
    host, _, path = raw.decode("ascii", "replace").lstrip("/").partition("/")
    return Asked(
        method=request.method,
        host=host,
        path="/" + request.path_params.get("path", ""),
        raw_path=f"/{path}",
        query=dict(request.query_params),
        headers=dict(request.headers),
        body=await request.body(),
    )


def matches(template: str, asked: Asked) -> bool:
    """Whether the request is for this URL template, whatever its variables are."""
    url = f"https://{asked.host}{asked.path}"
    pattern, rest = "", template.partition("?")[0].partition("#")[0]
    leading = True
    for name in template_variables(rest):
        before, _, rest = rest.partition("{" + name + "}")
        # A variable at the very beginning holds scheme and host, maybe a path.
        pattern += re.escape(before) + (".+?" if leading and not before else "[^/]+?")
        leading = False
    pattern += re.escape(rest)
    if not urlsplit(template).path:
        pattern += "/?"
    return re.fullmatch(pattern, url) is not None


def without_segment(asked: Asked, template: str) -> Asked:
    """The request with the first segment of its path taken out, where it fits the template."""
    first, slash, rest = asked.path.lstrip("/").partition("/")
    pattern = re.escape(template)
    for name in template_variables(template):
        pattern = pattern.replace(re.escape("{" + name + "}"), ".+")
    if not slash or re.fullmatch(pattern, first) is None:
        return asked
    return replace(asked, path="/" + rest)


def standard(params: Mapping[str, str], renames: Mapping[str, str]) -> dict[str, str]:
    """Parameters by their standard names: the manifest's renames undone."""
    undone = {provider: name for name, provider in renames.items() if provider}
    return {undone.get(name, name): value for name, value in params.items()}
