"""One transaction and the repositories that work in it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from aura_control.db.journal import AuditKey, Journal
from aura_control.db.repositories.agents import Agents
from aura_control.db.repositories.audit import Audit
from aura_control.db.repositories.checkpoints import Checkpoints
from aura_control.db.repositories.deliveries import Deliveries
from aura_control.db.repositories.events import Events
from aura_control.db.repositories.gauges import Gauges
from aura_control.db.repositories.instances import Instances
from aura_control.db.repositories.integrations import Integrations
from aura_control.db.repositories.limits import Limits
from aura_control.db.repositories.oauth import OAuthTransactions
from aura_control.db.repositories.retention import Retention
from aura_control.db.repositories.revocations import Revocations
from aura_control.db.repositories.sealed import Sealed
from aura_control.db.repositories.tenants import Tenants
from aura_control.db.repositories.tokens import Tokens
from aura_control.db.repositories.users import Users

__all__ = ["Transaction"]


class Transaction:
    """What a request or task does to the database: all of it or nothing.

    ``now`` is read once: every row and entry of one transaction carries the same time.
    """

    def __init__(self, session: AsyncSession, *, now: datetime, audit_key: AuditKey) -> None:
        self.session = session
        self.now = now
        self.journal = Journal(session, now=now, audit_key=audit_key)
        parts = (session, self.journal, now)
        self.tenants = Tenants(*parts)
        self.users = Users(*parts)
        self.tokens = Tokens(*parts)
        self.integrations = Integrations(*parts)
        self.revocations = Revocations(*parts)
        self.sealed = Sealed(*parts)
        self.oauth = OAuthTransactions(*parts)
        self.agents = Agents(*parts)
        self.instances = Instances(*parts)
        self.deliveries = Deliveries(*parts)
        self.limits = Limits(*parts)
        self.events = Events(*parts)
        self.audit = Audit(*parts)
        self.checkpoints = Checkpoints(*parts)
        self.retention = Retention(*parts)
        self.gauges = Gauges(*parts)
