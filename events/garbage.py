"""How long-lived processes of ours collect cyclic garbage.

What a process has loaded by the time that it serves stays: some 100,000 objects, which each full collection would go
through, 50 ms and more, only to find them all in use. They are set aside. The objects of a request are freed by their
counts of references as it ends, but a list of runs holds some thousands at once: at Python's own threshold of 700 the
collector looks through them while they are in use, several times a second.
Source: docs/decisions/0018-garbage.md.
"""

import gc
from typing import Final

YOUNG_OBJECTS: Final = 10_000
"""So many more containers made than freed before the collector looks at the young ones, a few MB at most."""


def set_aside() -> None:
    """Let the collector pass over all that there is now, and look less often at what comes."""
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
