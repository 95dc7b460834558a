"""The contiguous head of what is done."""

from __future__ import annotations

from itertools import accumulate, takewhile

from hypothesis import given
from hypothesis import strategies as st

from publishers.progress import Progress
from tests.support.hypo import examples


def test_nothing_begun() -> None:
    """It stands where it was put."""
    progress = Progress(41)
    assert (progress.position, progress.open, progress.held) == (41, 0, 0)


def test_the_head_waits_for_the_first() -> None:
    """What is done behind an open position counts only when that one is done."""
    progress = Progress(0)
    for position in (1, 2, 5):
        progress.begin(position)
    progress.finish(5)
    progress.finish(2)
    assert (progress.position, progress.open, progress.held) == (0, 1, 2)
    progress.finish(1)
    assert (progress.position, progress.open, progress.held) == (5, 0, 0)


@examples(150)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=15), st.data())
def test_any_order(gaps: list[int], data: st.DataObject) -> None:
    """Whatever begins and ends when, the head is the last position before which nothing is open."""
    positions = list(accumulate(gaps, initial=100))[1:]
    progress = Progress(100)
    begun: list[int] = []
    done: set[int] = set()
    while len(done) < len(positions):
        unfinished = [position for position in begun if position not in done]
        if len(begun) < len(positions) and (not unfinished or data.draw(st.booleans())):
            begun.append(positions[len(begun)])
            progress.begin(begun[-1])
        else:
            finished = data.draw(st.sampled_from(unfinished))
            done.add(finished)
            progress.finish(finished)
        contiguous = list(takewhile(done.__contains__, begun))
        assert progress.position == (contiguous[-1] if contiguous else 100)
        assert progress.open == len(begun) - len(done)
        assert progress.held == len(done) - len(contiguous)
    assert (progress.position, progress.open, progress.held) == (positions[-1], 0, 0)
