"""What a life is, and where it can end."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from companion.settings import Settings

LEASE_SECONDS: Final = 0.6
LIFE_SECONDS: Final = 100.0
LOOK_SECONDS: Final = 0.1
END_SECONDS: Final = 10.0

Steps = Sequence[tuple[Any, Sequence[str]]]

LEASES: Final = ("acquire", "release")
"""The steps of whoever leads."""


@dataclass(frozen=True, slots=True)
class Life:
    """What is lived, and around which calls it can end.

    `smaller` are constants that make few documents many steps, `needs` modules that it would import only when it comes to them.
    """

    live: Callable[[Settings], Awaitable[None]]
    steps: Steps
    smaller: Mapping[tuple[Any, str], Any] = field(default_factory=dict)
    needs: Sequence[str] = ()


# What is only looked at to see whether a life is over is no step of it.
_looking: contextvars.ContextVar[bool] = contextvars.ContextVar("looking", default=False)


@contextlib.contextmanager
def looking() -> Iterator[None]:
    """Make calls that are no steps."""
    token = _looking.set(True)
    try:
        yield
    finally:
        _looking.reset(token)


class Counter:
    """Counts steps, and ends the process at one of them."""

    def __init__(self, killed_at: int) -> None:
        self.steps = 0
        self._killed_at = killed_at

    def step(self) -> None:
        if _looking.get():
            return
        self.steps += 1
        if self.steps == self._killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, name: str) -> None:
        """Let the moments before and after a call be steps."""
        real = getattr(owner, name)

        @functools.wraps(real)
        async def awaited(*args: Any, **more: Any) -> Any:
            self.step()
            result = await real(*args, **more)
            self.step()
            return result

        @functools.wraps(real)
        def called(*args: Any, **more: Any) -> Any:
            self.step()
            result = real(*args, **more)
            self.step()
            return result

        setattr(owner, name, awaited if inspect.iscoroutinefunction(real) else called)
