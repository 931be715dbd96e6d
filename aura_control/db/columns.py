"""Column types and values that every table shares."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import ARRAY, JSON, DateTime, Dialect, Enum, MetaData, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator, TypeEngine

__all__ = ["Base", "Json", "TextList", "UtcDateTime", "milliseconds", "names", "new_id", "utc_now"]


def new_id() -> str:
    """A new row's id: a random UUID (RFC 9562 version 4) as 32 hexadecimal digits."""
    return uuid.uuid4().hex


def utc_now() -> datetime:
    """The wall clock, time zone aware."""
    return datetime.now(UTC)


def milliseconds(at: datetime) -> int:
    """Milliseconds since the epoch: the unit of revisions and of times on the wire."""
    return int(at.timestamp() * 1000)


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time in UTC, to the microsecond.

    SQLite has no time zones and would hand back naive values that compare with nothing, so the
    zone is checked on the way in and put back on the way out.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a stored time needs a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Json: TypeEngine[Any] = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
"""A JSON document; None is NULL."""

TextList: TypeEngine[Any] = JSON().with_variant(ARRAY(Text()), "postgresql")
"""A list of strings: ``TEXT[]`` where the database has it."""


def names(values: type[StrEnum]) -> Enum:
    """A column that holds one of ``values`` by its value; anything else is a LookupError."""
    return Enum(
        values,
        native_enum=False,
        length=20,
        values_callable=lambda members: [member.value for member in members],
    )


class Base(DeclarativeBase):
    """All tables; names of constraints are fixed so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, TypeEngine[Any]]] = {
        datetime: UtcDateTime(),
        dict[str, Any]: Json,
        list[str]: TextList,
        str: Text(),
    }
