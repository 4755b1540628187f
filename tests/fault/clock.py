"""A wall clock that can be stepped for one process and what it starts, and for nobody else."""

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

from tests.fault.places import Unavailable

SOURCE: Final = Path(__file__).with_name("clock.c")


class Clock:
    """A clock that is off by as much as was last said; `environment` gives it to a process."""

    def __init__(self, directory: Path) -> None:
        """Build it. Raises `Unavailable` where there is no C compiler."""
        compiler = shutil.which("cc")
        if compiler is None:
            raise Unavailable("there is no C compiler 'cc' (Debian: gcc, libc6-dev) to build a clock with")
        library = directory / "clock.so"
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise Unavailable(f"the clock cannot be built: {done.stderr[-500:]}")
        self._offset = directory / "clock.offset"
        self.step(0)
        self.environment = {"LD_PRELOAD": str(library), "TACHOGRAPH_CLOCK_OFFSET": str(self._offset)}

    def step(self, seconds: float) -> None:
        """Put it so many seconds before or behind the true time, at once."""
        with self._offset.open("r+b" if self._offset.exists() else "wb", buffering=0) as file:
            file.write(struct.pack("q", int(seconds * 1e9)))
