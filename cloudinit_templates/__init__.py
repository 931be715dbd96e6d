"""Cloud-init user-data for an agent's machine, rendered by one pure function."""

from __future__ import annotations

from cloudinit_templates.composing import MAX_USER_DATA, Composed, compose
from cloudinit_templates.plan import DaemonArchive, Plan

__all__ = ["MAX_USER_DATA", "Composed", "DaemonArchive", "Plan", "compose"]
