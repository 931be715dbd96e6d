"""Alembic runs this for each command; the connection comes from ``aura_control.db.schema``."""

from __future__ import annotations

from alembic import context

import aura_control.db.models  # noqa: F401 - fills the metadata
from aura_control.db.columns import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    compare_type=True,
    # SQLite cannot alter a column: Alembic copies the table instead.
    render_as_batch=True,
)

with context.begin_transaction():
    context.run_migrations()
