"""The tables of the first release."""

from __future__ import annotations

from aura_control.db.migrations.first.agents import agents, limits
from aura_control.db.migrations.first.connections import connections, revocations
from aura_control.db.migrations.first.journal import journal
from aura_control.db.migrations.first.people import people

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates them."""
    people()
    journal()
    connections()
    revocations()
    agents()
    limits()
