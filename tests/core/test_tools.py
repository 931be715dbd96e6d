"""Tools: one typed function, and everything that is made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from aura_core.errors import InvalidInput, PluginError, ProviderRejected
from aura_core.tools import ApiAnswer, ToolApi, openai_function, tool, tools_in


class Recording(ToolApi):
    """Answers every call with what it was."""

    async def send(
        self,
        method: str,
        url: str,
        *,
        query: Mapping[str, str | int | bool | Iterable[str]] | None = None,
        json: Any = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ApiAnswer:
        return ApiAnswer(status=200, headers={}, body=f'"{method} {url}"'.encode())


@tool
async def search(
    api: ToolApi,
    query: Annotated[str, Field(description="what to look for", min_length=1)],
    limit: Annotated[int, Field(ge=1, le=10)] = 5,
    kind: Literal["a", "b"] = "a",
    tags: list[str] = [],  # noqa: B006
) -> Any:
    """Search for
    things.

    More for people who read the code.
    """
    return [query, limit, kind, tags, await api.get("/x")]


def test_the_definition() -> None:
    assert openai_function(search) == {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Search for things.",
            "parameters": {
                "type": "object",
                "additionalProperties": False,
                "required": ["query"],
                "properties": {
                    "query": {"type": "string", "minLength": 1, "description": "what to look for"},
                    "limit": {"type": "integer", "minimum": 1, "maximum": 10, "default": 5},
                    "kind": {"type": "string", "enum": ["a", "b"], "default": "a"},
                    "tags": {"type": "array", "items": {"type": "string"}, "default": []},
                },
            },
        },
    }


async def test_a_call() -> None:
    answer = await search.call(Recording(), {"query": "q", "tags": ["t"]})
    assert answer == ["q", 5, "a", ["t"], "GET /x"]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": "q", "limit": 11}, "limit"),
        ({"query": "q", "limit": "many"}, "limit"),
        ({"query": "q", "kind": "c"}, "kind"),
        ({"query": "q", "tags": [1]}, "tags.0"),
        ({"query": "q", "api": 1}, "api"),
        ({"query": "q", "other": 1}, "other"),
    ],
)
async def test_arguments_are_checked(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await search.call(Recording(), arguments)
    assert set(caught.value.fields) == {field}


async def test_a_default_is_not_shared_between_calls() -> None:
    @tool
    async def grow(api: ToolApi, items: list[str] = []) -> Any:  # noqa: B006
        """Append to the list."""
        items.append("x")
        return items

    assert await grow.call(Recording(), {}) == ["x"]
    assert await grow.call(Recording(), {}) == ["x"]


def no_docstring(api: ToolApi) -> None: ...


async def undocumented(api: ToolApi) -> None: ...


async def untyped(api: ToolApi, x) -> None:  # type: ignore[no-untyped-def]
    """A tool whose parameter has no type."""


async def wrong_first(x: int) -> None:
    """A tool whose first parameter is not the api."""


async def no_schema(api: ToolApi, x: ModuleType) -> None:
    """A tool whose parameter no JSON can be."""


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (no_docstring, "async function"),
        (undocumented, "docstring"),
        (untyped, "has no type"),
        (wrong_first, "called api"),
        (no_schema, "no_schema"),
    ],
)
def test_what_cannot_be_a_tool_is_said(function: Any, reason: str) -> None:
    with pytest.raises(PluginError, match=reason):
        tool(function)


def test_tools_of_a_module() -> None:
    module = ModuleType("m")
    module.__dict__.update(b=search, a=1)
    assert tools_in(module) == (search,)


@pytest.mark.parametrize("verb", ["get", "post", "put", "patch", "delete"])
async def test_the_apis_verbs(verb: str) -> None:
    assert await getattr(Recording(), verb)("/y") == f"{verb.upper()} /y"


@pytest.mark.parametrize("body", [b"<html>", b"\xff\xfe", b"[" * 200_000])
def test_an_answer_that_is_no_json(body: bytes) -> None:
    with pytest.raises(ProviderRejected, match="not answer in JSON"):
        ApiAnswer(status=200, headers={}, body=body).json()
    assert ApiAnswer(status=204, headers={}, body=b"").json() is None
