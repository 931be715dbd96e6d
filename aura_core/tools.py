"""Tools, written once: a typed async function whose first parameter is the ``api``.

From it come the OpenAI function definition, the control plane's fallback execution, and the
skill's command line and SKILL.md. All I/O goes through ``api``, so the same function runs in the
control plane (credential added there) and on a machine (the broker adds it).

    @tool
    async def gmail_search(api: ToolApi, query: Annotated[str, Field(description="...")]) -> Any:
        '''Search messages in Gmail.'''
        return await api.get("/gmail/v1/users/me/messages", query={"q": query})
"""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from aura_core.errors import InvalidInput, PluginError, ProviderRejected

__all__ = ["ApiAnswer", "Tool", "ToolApi", "openai_function", "tool", "tools_in"]


@dataclass(frozen=True, kw_only=True)
class ApiAnswer:
    """A provider's answer. ``headers`` has lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON; ``None`` when it is empty. Raises :class:`ProviderRejected`."""
        if not self.body:
            return None
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):  # the latter for brackets nested without end
            raise ProviderRejected(
                "The provider did not answer in JSON.", status=self.status
            ) from None


class ToolApi(ABC):
    """Calls to one provider. URLs are paths on the API's base URL, or absolute on a named host."""

    @abstractmethod
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
        """One call. Raises ``ProviderUnavailable``, ``RateLimited``, ``ProviderRejected`` (status
        400 and above), ``PermissionDenied``, ``ReauthorizationRequired``."""

    async def get(self, url: str, **options: Any) -> Any:
        return (await self.send("GET", url, **options)).json()

    async def post(self, url: str, **options: Any) -> Any:
        return (await self.send("POST", url, **options)).json()

    async def put(self, url: str, **options: Any) -> Any:
        return (await self.send("PUT", url, **options)).json()

    async def patch(self, url: str, **options: Any) -> Any:
        return (await self.send("PATCH", url, **options)).json()

    async def delete(self, url: str, **options: Any) -> Any:
        return (await self.send("DELETE", url, **options)).json()


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One tool. ``arguments`` is the model its arguments are checked by."""

    name: str
    description: str
    arguments: type[BaseModel]
    function: Callable[..., Awaitable[Any]]

    def schema(self) -> dict[str, Any]:
        """JSON schema of the arguments (an object)."""
        schema = self.arguments.model_json_schema()
        schema.pop("title", None)
        for prop in schema.get("properties", {}).values():
            prop.pop("title", None)
        return schema

    async def call(self, api: ToolApi, arguments: Mapping[str, Any]) -> Any:
        """Check the arguments and run. Raises :class:`InvalidInput` and what ``api`` raises."""
        try:
            checked = self.arguments.model_validate(dict(arguments))
        except ValidationError as error:
            fields = {
                ".".join(map(str, e["loc"])): e["msg"]
                for e in error.errors(include_url=False, include_input=False)
            }
            raise InvalidInput(f"{self.name}: the arguments do not fit.", fields=fields) from None
        values = {name: getattr(checked, name) for name in self.arguments.model_fields}
        return await self.function(api, **values)


def tool(function: Callable[..., Awaitable[Any]]) -> Tool:
    """Make a tool of a typed async function. Raises :class:`PluginError` if it cannot be one."""
    name = function.__name__
    description = inspect.cleandoc(function.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    if not inspect.iscoroutinefunction(function):
        raise PluginError(f"{name}: a tool is an async function.")
    if not description:
        raise PluginError(f"{name}: a tool needs a docstring; the model reads it.")
    hints = get_type_hints(function, include_extras=True)
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].name != "api":
        raise PluginError(f"{name}: a tool's first parameter is called api.")
    fields: dict[str, Any] = {}
    for parameter in parameters[1:]:
        if parameter.name not in hints:
            raise PluginError(f"{name}: the parameter {parameter.name} has no type.")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], default)
    try:
        model = create_model(name, __config__=ConfigDict(extra="forbid", frozen=True), **fields)
        model.model_json_schema()
    except Exception as error:  # noqa: BLE001 - a parameter's type may raise anything
        raise PluginError(f"{name}: its types have no JSON schema: {error}") from None
    return Tool(name=name, description=description, arguments=model, function=function)


def tools_in(module: ModuleType) -> tuple[Tool, ...]:
    """The tools that a module defines, in order of definition."""
    return tuple(value for value in vars(module).values() if isinstance(value, Tool))


def openai_function(tool: Tool) -> dict[str, Any]:
    """The tool as OpenAI function definition (``tools`` entry of chat completions)."""
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.schema(),
        },
    }
