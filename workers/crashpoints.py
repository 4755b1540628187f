"""Named steps at which a test can make a process die, as `kill -9` would.

`TACHOGRAPH_CRASH_AT=relay.after_publish` ends the process the first time it comes there. Unset, a crash point
is one comparison.
"""

import os
import signal
from typing import Final

_CRASH_AT: Final = os.environ.get("TACHOGRAPH_CRASH_AT")


def crash_point(name: str) -> None:
    """Die here if the environment says so."""
    if name == _CRASH_AT:
        os.kill(os.getpid(), signal.SIGKILL)
