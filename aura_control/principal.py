"""Whom a request speaks for."""

from __future__ import annotations

from aura_control.db.repositories.tokens import Principal

__all__ = ["Principal"]
