"""`python -m bench`: all benchmarks, and bench/RESULTS.md. `python -m bench P4`: some, on the terminal only."""

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench import p2, p4, p5, p8, p11, p12, p13, report
from bench.harness import Result, Void
from bench.ports import free_port
from stack.errors import StackError
from stack.system import Stack

RESULTS: Final = Path(__file__).with_name("RESULTS.md")
NAMES: Final = ("P2", "P4", "P5", "P8", "P11", "P12", "P13")


async def measured(name: str, stack: Stack) -> tuple[list[Result], list[str]]:
    """Run one benchmark."""
    match name:
        case "P2":
            return await p2.run(stack)
        case "P11":
            return await p11.run(stack)
        case "P4":
            return await p4.run(stack.postgres)
        case "P5":
            return await p5.run(stack.postgres)
        case "P8":
            return await p8.run(stack)
        case "P12":
            return await p12.run(stack)
        case _:
            return await p13.run(stack)


def main(arguments: Sequence[str]) -> int:
    """Run what is named, or everything; returns the exit status."""
    names = list(dict.fromkeys(name.upper() for name in arguments)) or list(NAMES)
    if unknown := [name for name in names if name not in NAMES]:
        print(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    sections = {}
    try:
        with tempfile.TemporaryDirectory(prefix="tachograph-bench-") as home:
            about = report.machine(home)
            print(about, flush=True)
            with Stack(Path(home) / "home", free_port(), gpu_worker=False) as stack:
                for name in names:
                    results, notes = asyncio.run(measured(name, stack))
                    sections[name] = report.section(name, results, notes)
                    print(f"\n{sections[name]}", flush=True)
    except (StackError, Void) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if names == list(NAMES):
        RESULTS.write_text(report.document(about, sections), encoding="utf-8")
        print(f"written to {RESULTS.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
