"""What a process sets aside from the collector, and what it does not."""

import gc
import weakref

from events import garbage


class Link:
    """A part of a cycle."""

    def __init__(self) -> None:
        self.own = self


def test_what_was_there_is_passed_over_and_what_comes_is_collected() -> None:
    thresholds = gc.get_threshold()
    there = Link()
    try:
        garbage.set_aside()
        assert gc.get_freeze_count() > 0
        assert not any(one is there for one in gc.get_objects())
        later = weakref.ref(Link())
        gc.collect()
        assert later() is None
        assert gc.get_threshold()[0] == garbage.YOUNG_OBJECTS
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
