"""Run by trackio's own interpreter: logs a number now and then, and prints how long each took to be readable.

    .venv-trackio/bin/python -P bench/trackio_probe.py <numbers> <seconds between two>

(-P: beside this file lies another `trackio`.) A reader looks into the SQLite file that trackio's dashboard reads, a
thousand times a second. The last line printed is a list of seconds, as JSON.
"""

import json
import os
import sqlite3
import sys
import threading
import time
from pathlib import Path

import trackio

PROJECT = "probe"
LOOK_SECONDS = 0.001
PATIENCE_SECONDS = 30.0


def follow(seen: dict[int, float], count: int, give_up: float) -> None:
    """Note when each step is there."""
    path = Path(os.environ["TRACKIO_DIR"]) / f"{PROJECT}.db"
    while not path.exists():
        time.sleep(LOOK_SECONDS)
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
    last = 0
    while len(seen) < count and time.perf_counter() < give_up:
        try:
            rows = connection.execute("select id, step from metrics where id > ? order by id", (last,)).fetchall()
        except sqlite3.OperationalError:  # the table is not there yet
            rows = []
        now = time.perf_counter()
        for last, step in rows:  # noqa: B007 (the last one is where to go on)
            seen[step] = now
        time.sleep(LOOK_SECONDS)
    connection.close()


def main(count: int, every_seconds: float) -> None:
    """Log and follow."""
    seen: dict[int, float] = {}
    logged = []
    trackio.init(project=PROJECT, auto_log_gpu=False, auto_log_cpu=False)
    give_up = time.perf_counter() + count * every_seconds + PATIENCE_SECONDS
    reader = threading.Thread(target=follow, args=(seen, count, give_up))
    reader.start()
    for step in range(count):
        logged.append(time.perf_counter())
        trackio.log({"probe": float(step)}, step=step)
        time.sleep(every_seconds)
    reader.join()
    trackio.finish()
    print(json.dumps([seen[step] - at for step, at in enumerate(logged) if step in seen]))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
