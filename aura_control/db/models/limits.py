"""What agents used of their limits, and how far their machines' refusals were taken."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from aura_control.db.columns import Base

__all__ = ["AgentUsage", "RefusalMark"]


class AgentUsage(Base):
    """Calls of a scope (or tokens) in one minute since 1970, as one source counted them.

    ``source`` is ``control``, or the instance whose machine reported it. Rows that no window holds
    any more are deleted.
    """

    __tablename__ = "agent_usage"

    agent_id: Mapped[str] = mapped_column(ForeignKey("agents.id"), primary_key=True)
    source: Mapped[str] = mapped_column(primary_key=True)
    what: Mapped[str] = mapped_column(primary_key=True)
    minute: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(BigInteger)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))


class RefusalMark(Base):
    """The number of the last refused call that was taken from a machine into the audit log."""

    __tablename__ = "refusal_marks"

    instance_id: Mapped[str] = mapped_column(ForeignKey("instances.id"), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    seq: Mapped[int] = mapped_column(BigInteger)
