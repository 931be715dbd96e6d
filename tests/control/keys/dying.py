"""``python -m tests.control.keys.dying STEP ARGUMENTS``: the command line, killed at a step.

The step is ``module:name before|after N``: the process kills itself (SIGKILL) before or after the
N-th call.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import signal
import sys
from typing import Any

from aura_control.cli import main


def die_at(path: str, when: str, number: int) -> None:
    module, _, name = path.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    real, calls = getattr(owner, name), iter(range(1, 10_000))

    def strike(at: str, call: int) -> None:
        if (at, call) == (when, number):
            os.kill(os.getpid(), signal.SIGKILL)

    if inspect.iscoroutinefunction(real):

        @functools.wraps(real)
        async def dying(*arguments: Any, **options: Any) -> Any:
            call = next(calls)
            strike("before", call)
            answer = await real(*arguments, **options)
            strike("after", call)
            return answer

    else:

        @functools.wraps(real)
        def dying(*arguments: Any, **options: Any) -> Any:
            call = next(calls)
            strike("before", call)
            answer = real(*arguments, **options)
            strike("after", call)
            return answer

    setattr(owner, name, dying)


if __name__ == "__main__":
    die_at(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    sys.argv[1:] = sys.argv[4:]
    main()
