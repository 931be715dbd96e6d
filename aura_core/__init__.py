"""Aura's core: what an integration is, and how its credential lives.

The modules are the interface; this package imports none of them, so that a machine or a listing
pays only for what it uses. The light side (``errors``, ``manifest``, ``credentials``, ``crypto``,
``wire``, ``skills``, ``placement``, ``permissions``, ``tools``, and the contracts ``compute`` and
``runtime``) needs pydantic and cryptography; the host side (extra ``host``) adds pluggy, httpx and
Authlib.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
