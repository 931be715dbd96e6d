"""Storage: the tables, every query, and the migrations."""

from __future__ import annotations
