"""An iterator in a thread of its own."""

import threading
import time
from collections.abc import Iterator

import pytest

from harness.ahead import ahead


def alive() -> bool:
    return any(thread.name == "harness-ahead" for thread in threading.enumerate())


def test_all_items_in_order_then_the_error_of_the_source() -> None:
    def source() -> Iterator[int]:
        yield from range(100)
        raise KeyError("broken")

    with ahead(source(), most=3, patience_s=0.05) as items:
        taken = []
        with pytest.raises(KeyError, match="broken"):
            taken.extend(items)  # what came before the error is kept
    assert [item for item in taken if item is not None] == list(range(100))
    assert not alive()


def test_nothing_yet_is_none_and_does_not_wait() -> None:
    gate = threading.Event()

    def source() -> Iterator[int]:
        gate.wait()
        yield 7

    with ahead(source(), most=3) as items:
        assert [next(items) for _ in range(3)] == [None] * 3
        gate.set()
        assert [item for item in items if item is not None] == [7]


def test_the_source_is_never_more_than_so_many_items_ahead() -> None:
    drawn = []

    def source() -> Iterator[int]:
        for item in range(50):
            drawn.append(item)
            yield item

    with ahead(source(), most=4, patience_s=1) as items:
        for taken in range(1, 51):
            assert next(items) == taken - 1
            time.sleep(0.001)
            assert len(drawn) <= taken + 4 + 1  # those that wait, and the one that has no room


def test_an_abandoned_source_is_closed_in_its_thread() -> None:
    closed_in = []

    def source() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed_in.append(threading.current_thread().name)

    with ahead(source(), most=2, patience_s=1) as items:
        assert next(items) == 1
    assert closed_in == ["harness-ahead"]
    assert not alive()
