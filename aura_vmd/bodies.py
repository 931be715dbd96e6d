"""Reading a request's body within a size and a time."""

from __future__ import annotations

import asyncio

from aiohttp import web

from aura_core.errors import InvalidInput, MessageTooLarge

__all__ = ["read_body"]


async def read_body(request: web.BaseRequest, *, limit: int, seconds: float) -> bytes:
    """The body as it was sent. Raises ``MessageTooLarge``, as soon as the length is declared, and
    ``InvalidInput`` for one that does not come in time."""
    too_large = MessageTooLarge(f"A body has at most {limit} bytes here.")
    if request.content_length is not None and request.content_length > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise InvalidInput(f"The body did not come within {seconds:g} seconds.") from None
    return bytes(body)
