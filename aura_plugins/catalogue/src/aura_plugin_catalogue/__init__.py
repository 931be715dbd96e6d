"""Hundreds of providers as integrations of Aura: manifests, no code of their own."""

from __future__ import annotations

__all__: list[str] = []
