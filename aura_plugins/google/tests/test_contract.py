"""Google keeps the contract of integrations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aura_core.testing.contract import IntegrationContract


class TestGoogle(IntegrationContract):
    provider = "google"
    arguments: Mapping[str, Mapping[str, Any]] = {
        "gmail_search": {"query": "invoice"},
        "gmail_read": {"message_id": "18f1a0000000002"},
        "gmail_send": {"to": ["anna@example.com"], "subject": "Hi", "body": "text"},
        "calendar_list_events": {},
        "calendar_create_event": {
            "summary": "Lunch",
            "start": "2026-03-02T12:00:00Z",
            "end": "2026-03-02T13:00:00Z",
        },
    }
