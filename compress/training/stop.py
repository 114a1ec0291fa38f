"""Ctrl-C between steps: a step that has begun is finished, so that what is saved is one exact moment of the training."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    asked: bool = False


@contextmanager
def stop_between_steps() -> Iterator[Stop]:
    """Yield a flag that the first SIGINT or SIGTERM sets; the second one interrupts at once. Handlers are restored after.

    Outside the main thread signals cannot be caught: the flag then stays False.
    """
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
