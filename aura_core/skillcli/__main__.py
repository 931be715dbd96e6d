"""``python -I -m aura_core.skillcli``."""

from __future__ import annotations

import sys

from aura_core.skillcli._cli import main

sys.exit(main())
