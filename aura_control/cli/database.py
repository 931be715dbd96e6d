"""What goes wrong with a database or a data directory, in words for the operator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aura_core.errors import ConfigurationError

__all__ = ["told_apart"]


@contextmanager
def told_apart() -> Iterator[None]:
    """Raises ConfigurationError for what the database or the file system answer in the block."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        # Its words may hold the URL, and with it the password.
        raise ConfigurationError(
            f"The database cannot be used ({type(error).__name__}).",
            hint="Is AURA_DATABASE_URL right, and does its server run?",
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or 'A file'} cannot be used: {error.strerror or error}.",
            hint="Is AURA_DATA_DIR right, and yours?",
        ) from None
