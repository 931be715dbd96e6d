"""Files that the user names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aura_core.errors import ConfigurationError

__all__ = ["read_json_file"]


def read_json_file(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ConfigurationError that names the file."""
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigurationError(f"{path} is not JSON: {error}.") from None
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path} does not hold a JSON object.")
    return document
