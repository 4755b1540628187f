"""Logs once a millisecond until it is killed, and notes each row's time beside it.

    python -P bench/kill_probe.py <the run's external id> <where to note>

It prints `ready` and the run's id, and waits for a line; without one it ends its run. A row's time is noted once `log`
has returned, as eight bytes: a file that is written to outlives its process as a journal does.
"""

import os
import struct
import sys
import time

import tachograph

EVERY_SECONDS = 0.001


def main(external_id: str, path: str) -> None:
    """Log and note."""
    run = tachograph.init("p1", external_id=external_id)
    print(f"ready\n{run.id}", flush=True)
    if not sys.stdin.readline():
        run.finish()
        return
    noted = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    began, step = time.perf_counter(), 0
    while True:
        run.log({"row": float(step)}, step=step)
        os.write(noted, struct.pack("<q", time.time_ns()))
        step += 1
        time.sleep(max(0.0, step * EVERY_SECONDS - (time.perf_counter() - began)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
