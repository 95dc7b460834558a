"""How far we have come: the contiguous head of what is done."""

from __future__ import annotations

from collections import deque


class Progress:
    """Positions begin in order, end in any order, and the checkpoint moves only over those before which nothing is open."""

    def __init__(self, position: int) -> None:
        self.position = position
        """Everything up to here is done."""
        self._begun: deque[int] = deque()
        self._done: set[int] = set()

    @property
    def open(self) -> int:
        """How many positions are begun and not done."""
        return len(self._begun) - len(self._done)

    @property
    def held(self) -> int:
        """How many positions are done behind one that is not; the head waits before that one."""
        return len(self._done)

    def begin(self, position: int) -> None:
        """Note that work on this position has begun; positions grow."""
        self._begun.append(position)

    def finish(self, position: int) -> None:
        """Note that this position is done, and move the head as far as it goes."""
        self._done.add(position)
        while self._begun and self._begun[0] in self._done:
            self.position = self._begun.popleft()
            self._done.remove(self.position)
