"""`python -m service replay --project P [--run R]`: tell a history again, event by event.

Exit status: 0 told (or published), 1 the events do not add up to the run's live state, 2 it could not be told.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from events.database import open_pool
from events.errors import NotFound
from events.keys import Keyring
from events.ledger import Ledger
from events.settings import Settings, from_environment
from projections import runs
from projections.archive import stores
from projections.archive.restore import Restorer
from projections.replay import Replay, Wanted
from projections.runs import StoredRun
from service import moments
from service.alert_conditions import check_types
from service.commands import timeline
from service.commands.audit import find_project
from service.commands.bar import Bar
from service.commands.republish import Target, republish, say
from service.problems import Invalid

CHUNK_BYTES: Final = 64 << 10


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asks for."""

    project: str
    run: str | None
    start: str | None
    after: int | None
    until: str | None
    types: Sequence[str] | None
    json: bool
    target: Target | None


def main(arguments: Sequence[str]) -> int:
    """Tell what the command line names on standard output; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.to is None) != (options.subject is None):
        parser.error("--to and --subject go together")
    if options.to is None and (options.dry_run or options.stream):
        parser.error("--dry-run and --stream go with --to")
    if options.to is not None and "://" not in options.to:
        parser.error("--to is the address of a NATS server, nats://…; a range ends with --until")
    target = None
    if options.to is not None:
        target = Target(url=options.to, subject=options.subject, stream=options.stream, dry_run=options.dry_run)
    asked = Asked(
        project=options.project,
        run=options.run,
        start=options.start,
        after=options.after,
        until=options.until,
        types=types_of(options.types),
        json=options.json,
        target=target,
    )
    try:
        return asyncio.run(_tell(from_environment(), asked))
    except BrokenPipeError:
        return 0  # whoever read us has enough
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service replay", description="Tell a history again.")
    parser.add_argument("--project", required=True, help="id or name")
    parser.add_argument("--run", help="id or name: only this run, with the state that it is folded into")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--from", dest="start", metavar="MOMENT", help="first position, or a time (RFC 3339)")
    where.add_argument("--after", type=int, metavar="POSITION", help="go on behind this position")
    parser.add_argument("--until", metavar="MOMENT", help="last position, or a time")
    parser.add_argument("--types", metavar="TYPES", help="event types, with commas between them")
    parser.add_argument("--json", action="store_true", help="a JSON document a line instead of a timeline")
    publish = parser.add_argument_group("publish it again, for a new subscriber")
    publish.add_argument("--to", metavar="URL", help="a NATS server, nats://user:password@host:port")
    publish.add_argument("--subject", help="publish on SUBJECT.<ledger>.<run>.<type>; never one of the running system")
    publish.add_argument("--stream", metavar="NAME", help="make this JetStream stream if none keeps the subject")
    publish.add_argument("--dry-run", action="store_true", help="count only")
    return parser


def types_of(text: str | None) -> list[str] | None:
    """Return event types that stand in a text with commas between them; None for all. Raises `Invalid`."""
    if not text:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    check_types(tuple(names), "types")
    return names


async def _tell(settings: Settings, asked: Asked) -> int:
    pool = await open_pool(settings.database_url, name="replay", size=4)
    try:
        ledger = Ledger(pool, Keyring.from_file(settings.master_key))
        ledger_id = await find_project(pool, asked.project)
        run = await find_run(ledger, ledger_id, asked.run) if asked.run else None
        wanted = await resolve(
            ledger, ledger_id, None if run is None else run.run_id,
            start=asked.start, after=asked.after, until=asked.until, types=asked.types,
        )  # fmt: skip
        replay = Replay(ledger, Restorer(stores.opened(settings)), wanted)
        if asked.target is not None:
            say(await republish(replay, asked.target, wanted.up_to), asked.target)
            return 0
        await _write(replay, wanted, as_json=asked.json)
        return 0 if run is None else await _agrees(ledger, replay, run.run_id)
    finally:
        await pool.close()


async def find_run(ledger: Ledger, ledger_id: UUID, name_or_id: str) -> StoredRun:
    """Return a run of a project by id or name. Raises `NotFound`."""
    run_id: UUID | None
    try:
        run_id = UUID(name_or_id)
    except ValueError:
        run_id = await ledger.pool.fetchval(
            "select run_id from run where ledger_id = $1 and name = $2", ledger_id, name_or_id
        )
    stored = await runs.get(ledger.pool, run_id) if run_id else None
    if stored is None or stored.ledger_id != ledger_id:
        raise NotFound(f"there is no run {name_or_id!r} in this project")
    return stored


async def resolve(
    ledger: Ledger,
    ledger_id: UUID,
    run_id: UUID | None,
    *,
    start: str | None,
    after: int | None,
    until: str | None,
    types: Sequence[str] | None,
) -> Wanted:
    """Return what a range names. Raises `Invalid` for one that is none, or lies beyond the ledger's head."""
    head, _ = await ledger.head(ledger_id)
    if start is not None and after is not None:
        raise Invalid("either `from` or `after`, not both", path="after")
    if after is not None and not 0 <= after <= head:
        raise Invalid(f"position {after} lies beyond the ledger's head, {head}", path="after", limit=head)
    begin = after or 0
    if start is not None:
        at = _at(start, "from")
        if isinstance(at, datetime):
            at -= timedelta(microseconds=1)  # what was recorded at that very time is told
        moment = await moments.moment(ledger.pool, ledger_id, at, stream=run_id, path="from")
        begin = moment.position - (not isinstance(at, datetime))
    end = head
    if until is not None:
        end = (await moments.moment(ledger.pool, ledger_id, _at(until, "until"), stream=run_id, path="until")).position
    return Wanted(ledger_id=ledger_id, run_id=run_id, after=begin, up_to=end, types=types)


def _at(text: str, path: str) -> moments.At:
    """Return the moment that a range's end names: a bare number is a position."""
    return moments.parse(f"position:{text}" if text.isdecimal() else text, path)


async def _write(replay: Replay, wanted: Wanted, *, as_json: bool) -> None:
    """Write what is told; where that is cut off, say behind which position to go on: all before it is written."""
    terminal = sys.stdout.isatty()
    coloured = terminal and "NO_COLOR" not in os.environ
    lines, written = bytearray(), wanted.after
    try:
        with Bar(shown=not terminal) as bar:
            async with aclosing(replay.steps()) as steps:
                async for step in steps:
                    lines += timeline.as_json(step) if as_json else timeline.as_text(step, coloured=coloured)
                    if terminal or len(lines) >= CHUNK_BYTES:
                        _put(lines)
                        written = step.recorded.position
                    bar.show("replay", step.recorded.position - wanted.after, wanted.up_to - wanted.after)
            _put(lines)
            written = wanted.up_to
    finally:
        if written < wanted.up_to:
            print(f"stopped; go on with --after {written}", file=sys.stderr)


def _put(lines: bytearray) -> None:
    """Write at once, so that nothing is left to write when we are cut off."""
    rest = memoryview(bytes(lines))
    while rest:
        rest = rest[os.write(sys.stdout.fileno(), rest) :]
    lines.clear()


async def _agrees(ledger: Ledger, replay: Replay, run_id: UUID) -> int:
    """Say whether the run's events, told to their end, add up to its live state."""
    folded, live = replay.state(run_id), await runs.get(ledger.pool, run_id)
    if folded is None or live is None or folded.version != live.run.version:
        return 0  # its end was not told, or it went on meanwhile
    if folded == live.run:
        print(f"{replay.told} events ({replay.restored} from Parquet): {folded.status}, as it is", file=sys.stderr)
        return 0
    print(f"NOT what its events add up to: the live state of run {run_id} at version {folded.version}", file=sys.stderr)
    return 1
