"""The triggers that keep the audit log append-only, on both databases."""

from __future__ import annotations

from alembic import op

__all__ = ["make_append_only"]


def make_append_only() -> None:
    """Refuses to change an audit entry, and to delete one that retention has not given up.

    The chain of MACs shows a change afterwards; this keeps an honest mistake, in a query or by
    hand, from making one. What may be deleted is exactly the part of a chain up to the tenant's
    anchor, and an anchor moves only forward, onto an entry that is there and that a delivered
    checkpoint covers. TRUNCATE fires no row trigger and gets its own.
    """
    kept = (
        "NOT EXISTS (SELECT 1 FROM audit_anchors a"
        " WHERE a.tenant_id = OLD.tenant_id AND OLD.seq <= a.seq)"
    )
    astray = (
        "NEW.tenant_id <> OLD.tenant_id OR NEW.seq < OLD.seq OR (NEW.seq > OLD.seq AND NOT EXISTS"
        " (SELECT 1 FROM audit_logs l JOIN audit_heads h ON h.tenant_id = l.tenant_id"
        " WHERE l.tenant_id = NEW.tenant_id AND l.seq = NEW.seq AND l.mac = NEW.mac"
        " AND l.seq <= h.checkpoint_seq))"
    )
    for table, event, condition in (
        ("audit_logs", "UPDATE", None),
        ("audit_logs", "DELETE", kept),
        ("audit_anchors", "UPDATE", astray),
        ("audit_anchors", "DELETE", None),
        ("audit_logs", "TRUNCATE", None),
        ("audit_anchors", "TRUNCATE", None),
    ):
        _refuse(table, event, condition)


def _refuse(table: str, event: str, condition: str | None) -> None:
    name = f"{table}_no_{event.lower()}"
    if op.get_bind().dialect.name == "sqlite":
        if event != "TRUNCATE":  # SQLite has none
            when = "" if condition is None else f" WHEN {condition}"
            op.execute(
                f"CREATE TRIGGER {name} BEFORE {event} ON {table}{when}"
                f" BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
        return
    # A condition with a subquery has to stand in the function's body there.
    passed = {"UPDATE": "NEW", "DELETE": "OLD", "TRUNCATE": "NULL"}[event]
    refusal = f"RAISE EXCEPTION '{table} is append-only';"
    guarded = refusal if condition is None else f"IF {condition} THEN {refusal} END IF;"
    op.execute(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN {guarded} RETURN {passed}; END $$"
    )
    level = "STATEMENT" if event == "TRUNCATE" else "ROW"
    op.execute(
        f"CREATE TRIGGER {name} BEFORE {event} ON {table}"
        f" FOR EACH {level} EXECUTE FUNCTION {name}()"
    )
