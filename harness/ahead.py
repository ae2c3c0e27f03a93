"""Runs an iterator in a thread of its own, a bounded number of items ahead of whoever takes them: `ahead`.

So a model samples while programs are graded, neither waiting for the other. Not handled: several takers.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

JOIN_S = 5.0
"""An abandoned iterator may be in the middle of something long: it is not waited for beyond this."""


@dataclass(frozen=True)
class _End:
    error: BaseException | None


@contextlib.contextmanager
def ahead(source: Iterator[T], *, most: int, patience_s: float = 0.0) -> Iterator[Iterator[T | None]]:
    """An iterator over what `source` yields, with None in between whenever nothing has come within `patience_s`.

    The thread begins with the block and waits when `most` items are not yet taken. What `source` raises is raised where
    its items are taken, after those that came before. Leaving the block ends the thread at the next item.
    """
    items: queue.Queue[T | _End] = queue.Queue(most)
    abandoned = threading.Event()

    def run() -> None:
        try:
            for item in source:
                items.put(item)
                if abandoned.is_set():
                    return
        except BaseException as error:  # all of them: it is raised again where the items are taken
            items.put(_End(error))
        else:
            items.put(_End(None))
        finally:
            if close := getattr(source, "close", None):
                close()

    def take() -> Iterator[T | None]:
        while True:
            try:
                item = items.get(timeout=patience_s) if patience_s else items.get_nowait()
            except queue.Empty:
                yield None
                continue
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    # A daemon: a sampler that hangs must not keep the interpreter from ending.
    thread = threading.Thread(target=run, name="harness-ahead", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        abandoned.set()
        while thread.is_alive():  # it may wait for room, or come to it once more
            with contextlib.suppress(queue.Empty):
                items.get_nowait()
            thread.join(0.01)
            if not items.qsize() and thread.is_alive():
                thread.join(JOIN_S)
                break
