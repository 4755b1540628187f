"""`make faults`: rounds of faults, seeded and bounded. It says the schedule, what it does, and what did not hold.

SEED=n plays that one; otherwise SEEDS rounds (1) are drawn. SECONDS (120) bounds how long things go wrong in each, and
MOST_SECONDS (60) how long at a time. ONLY="kill nats,freeze relay" takes those nemeses; KEEP=directory keeps a journal.
"""

import argparse
import asyncio
import random
import sys
import time
from pathlib import Path

from tests.fault.cluster import running_cluster
from tests.fault.nemeses import NEMESES, Limits
from tests.fault.operations import Violation
from tests.fault.suite import play, schedule


def main() -> int:
    """Play; returns the exit status: 1 where an invariant did not hold."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--most-seconds", type=float, default=60.0)
    parser.add_argument("--only", default="", help=f"of {', '.join(NEMESES)}")
    parser.add_argument("--keep", type=Path, help="a directory for the journal of each round, and logs where it failed")
    options = parser.parse_args()
    names = [name.strip() for name in options.only.split(",") if name.strip()]
    for name in names:
        if name not in NEMESES:
            parser.error(f"there is no nemesis {name!r}; there are {', '.join(NEMESES)}")
    seeds = [options.seed] if options.seed is not None else random.sample(range(1_000_000), options.seeds)
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    limits = Limits(most_seconds=min(options.most_seconds, options.seconds))
    for seed in seeds:
        strikes = schedule(seed, limits, options.seconds, names)
        print(f"seed {seed}: {len(strikes)} strikes", *(f"  {strike.says}" for strike in strikes), sep="\n", flush=True)
        with running_cluster() as cluster:
            for what, why in cluster.places.missing.items():
                print(f"NOT POSSIBLE HERE: {what}: {why}", flush=True)
            journal = options.keep / f"{seed}.jsonl" if options.keep is not None else None
            try:
                until = time.monotonic() + options.seconds
                asyncio.run(play(cluster, seed, strikes, lambda line: print(line, flush=True), journal, until))
            except Violation as broken:
                for log, words in cluster.last_words():
                    if options.keep is not None:
                        (options.keep / f"{seed}-{Path(log).name}").write_text(words)
                again = f"make faults SEED={seed} SECONDS={options.seconds:g} MOST_SECONDS={options.most_seconds:g}"
                print(f"VIOLATED: {broken}", f"again: {again}", sep="\n", file=sys.stderr)
                return 1
    print(f"every invariant held, seeds {', '.join(map(str, seeds))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
