"""`python -m bench`: all benchmarks, kept in bench/RESULTS.md. `python -m bench P4`: some, on the terminal only.

`--keep` keeps these too.
"""

import asyncio
import gc
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console

from bench import p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, p12, p13, p14, p15, picture, report, results, scaling
from bench.harness import Result, Void
from bench.probes import probe
from bench.results import Section
from events.garbage import set_aside
from stack.errors import StackError
from stack.ports import free_port
from stack.system import Stack

PAGE: Final = Path(__file__).with_name("RESULTS.md")
PICTURE: Final = PAGE.with_suffix(".svg")
Benchmark = Callable[[Stack], Awaitable[tuple[list[Result], list[str]]]]
BENCHMARKS: Final[Mapping[str, Benchmark]] = {
    "P1": p1.run,
    "P2": p2.run,
    "P3": p3.run,
    "P4": lambda stack: p4.run(stack.postgres),
    "P5": lambda stack: p5.run(stack.postgres),
    "P6": p6.run,
    "P7": p7.run,
    "P8": p8.run,
    "P9": p9.run,
    "P10": p10.run,
    "P11": p11.run,
    "P12": p12.run,
    "P13": p13.run,
    "P14": p14.run,
    "P15": p15.run,
    "SCALING": scaling.run,
}
AS_THE_SERVICE: Final = frozenset({"P4"})
"""Whose ledger runs in this very process: on the event loop that the service has, and collecting garbage as it does."""
KEEP: Final = "--keep"


@contextmanager
def set_aside_meanwhile() -> Iterator[None]:
    """Collect garbage as the service does, and afterwards as before."""
    thresholds = gc.get_threshold()
    set_aside()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


def between_probes(name: str, stack: Stack, home: str) -> Section:
    """Run one benchmark with a look at the machine before and after."""
    before = probe(home)
    if name in AS_THE_SERVICE:
        with set_aside_meanwhile():
            found, notes = uvloop.run(_results(BENCHMARKS[name], stack))
    else:
        found, notes = asyncio.run(_results(BENCHMARKS[name], stack))
    return Section(
        measured_on=datetime.now(UTC).date(),
        machine=results.machine(),
        before=before,
        after=probe(home),
        load_average=os.getloadavg()[0],
        results=found,
        notes=notes,
    )


async def _results(benchmark: Benchmark, stack: Stack) -> tuple[list[Result], list[str]]:
    return await benchmark(stack)


def main(arguments: Sequence[str]) -> int:
    """Run what is named, or everything; returns the exit status."""
    names = list(dict.fromkeys(one.upper() for one in arguments if one != KEEP)) or list(BENCHMARKS)
    if unknown := [name for name in names if name not in BENCHMARKS]:
        print(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    sections: dict[str, Section] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="tachograph-bench-") as home:
            for name in names:  # each on a system of its own: none pays for what another left
                with Stack(Path(home) / name, free_port(), gpu_worker=False) as stack:
                    sections[name] = between_probes(name, stack, home)
                print(f"\n{report.section(name, sections[name])}", flush=True)
    except (StackError, Void) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    console = Console()
    if console.is_terminal:
        for line in picture.lines(sections):
            console.print(line)
    if KEEP in arguments or len(names) == len(BENCHMARKS):
        everything = results.keep(sections)
        PAGE.write_text(report.document(everything), encoding="utf-8")
        PICTURE.write_text(picture.svg(everything), encoding="utf-8")
        print(f"written to {PAGE.name} and {PICTURE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
