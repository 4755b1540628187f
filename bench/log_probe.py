"""Run by the interpreter that has a client library: logs ten numbers again and again, and prints how long calls took.

    python -P bench/log_probe.py <tachograph|wandb|trackio> <calls> <seconds between two>

(-P: beside this file lies another `trackio`.) Once it has begun a run it prints `ready`, and waits for a line. The last
line it prints is the calls' nanoseconds, as JSON; it comes after the library has finished the run. A program with a
pace sleeps between two calls, as one that waits for its accelerator.
"""

# ruff: noqa: PLC0415 (each interpreter has one of the libraries)

import json
import sys
import time
from collections.abc import Callable

Log = Callable[[dict[str, float], int], object]


def opened(library: str) -> tuple[Log, Callable[[], object]]:
    """Begin a run; returns what logs a row, and what finishes the run."""
    if library == "tachograph":
        import tachograph

        run = tachograph.init("p1", finish_seconds=5)  # the service may be away by then
        return (lambda row, step: run.log(row, step=step)), run.finish
    if library == "wandb":
        import wandb

        begun = wandb.init(project="p1", mode="offline")
        return (lambda row, step: begun.log(row, step=step)), begun.finish
    import trackio

    trackio.init(project="p1", auto_log_gpu=False, auto_log_cpu=False)
    return (lambda row, step: trackio.log(row, step=step)), trackio.finish


def main(library: str, calls: int, every_seconds: float) -> None:
    """Log at a pace, or as fast as it goes where that is 0."""
    log, finish = opened(library)
    print("ready", flush=True)
    sys.stdin.readline()
    clock = time.perf_counter_ns
    nanoseconds = []
    began = clock()
    for step in range(calls):
        if every_seconds:
            time.sleep(max(0.0, step * every_seconds - (clock() - began) / 1e9))
        row = {f"metric/{index}": step + index / 10 for index in range(10)}
        before = clock()
        log(row, step)
        nanoseconds.append(clock() - before)
    finish()
    print(json.dumps(nanoseconds))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
