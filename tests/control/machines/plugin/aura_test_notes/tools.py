from typing import Any

from aura_core.tools import ToolApi, tool


@tool
async def notes_list(api: ToolApi) -> Any:
    """Lists all notes."""
    return await api.get("/notes")


@tool
async def notes_add(api: ToolApi, text: str) -> Any:
    """Adds a note."""
    return await api.post("/notes", json={"text": text})
