"""ElevenLabs keeps the contract of integrations."""

from __future__ import annotations

from aura_core.testing.contract import IntegrationContract


class TestElevenLabs(IntegrationContract):
    provider = "elevenlabs"
