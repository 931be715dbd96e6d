"""ElevenLabs as an integration of Aura: a manifest, no code of its own."""

from __future__ import annotations

__all__: list[str] = []
