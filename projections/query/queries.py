"""SQL over one project: each query in a process of its own, bounded in everything, and killed when nobody waits.

    content = await queries.run(project_id, "select count(*) from metrics", form="json")

From the first query on a process is started ahead, so that the next does not wait for one. They have no environment,
no credentials and no connection; what they need from Postgres is handed over to them once they have said which views a
statement reads.
"""

import asyncio
import contextlib
import logging
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, get_args
from uuid import UUID

import msgspec

from events.errors import LedgerError, TooLarge, Unavailable
from events.ledger import Ledger
from projections.archive.stores import Store, holding
from projections.query.limits import Limits, QueryRefused, QueryTooHungry, QueryTooSlow, TooManyQueries
from projections.query.process import Answer, Parameters, Refused, Result, Statement, Tables, Views, frame
from projections.query.results import Format
from projections.query.tables import Part
from projections.query.tables import Tables as Contents
from projections.query.views import COLUMNS, VIEWS

log = logging.getLogger("tachograph.queries")

ROOT: Final = Path(__file__).resolve().parent.parent.parent
AHEAD: Final = 1
"""Processes that wait for a query, once there was one: an idle system pays for none."""

PIECE_BYTES: Final = 1 << 20

UNREADABLE: Final = "a file of the project could not be read, as when a run was just deleted; try again"

_answers: Final = msgspec.msgpack.Decoder(Answer)


class Queries:
    """Runs queries; at most `limits.at_once` at a time, `limits.project_at_once` of one project."""

    def __init__(self, ledger: Ledger, store: Store, limits: Limits) -> None:
        self._ledger = ledger
        self._store = store
        self._limits = limits
        self._ahead: list[asyncio.Task[Process]] = []
        self._running: Counter[UUID] = Counter()

    def _start(self) -> None:
        """Start what is to wait for queries."""
        while len(self._ahead) < AHEAD:
            self._ahead.append(asyncio.create_task(_started(), name="query process"))

    async def close(self) -> None:
        """End the processes that wait."""
        waiting, self._ahead = self._ahead, []
        for one in waiting:
            with contextlib.suppress(OSError):
                await _ended(await one)

    async def run(
        self,
        ledger_id: UUID,
        sql: str,
        parameters: Parameters = None,
        *,
        form: Format = "json",
    ) -> bytes:
        """Return a query's answer in a format; cancelling this kills the query.

        Raises `QueryRefused`, `QueryTooSlow`, `QueryTooHungry` and `TooLarge`, each with the bound that it names, and
        `TooManyQueries`: retry.
        """
        limits = self._limits
        if form not in get_args(Format):
            raise QueryRefused(f"{form!r} is none of {', '.join(get_args(Format))}", path="format")
        if len(sql.encode("utf-8", "surrogatepass")) > limits.sql_bytes:
            raise TooLarge(f"a statement has at most {limits.sql_bytes} bytes", limit=limits.sql_bytes)
        if self._running.total() >= limits.at_once:
            raise TooManyQueries(f"{limits.at_once} queries are under way; wait for one", limit=limits.at_once)
        if self._running[ledger_id] >= limits.project_at_once:
            raise TooManyQueries(
                f"{limits.project_at_once} queries of this project are under way; wait for one",
                limit=limits.project_at_once,
            )
        self._running[ledger_id] += 1
        try:
            async with asyncio.timeout(limits.seconds):
                return await self._answered(ledger_id, sql, parameters, form)
        except TimeoutError:
            detail = f"the query took over {limits.seconds} s and was stopped; narrow it down"
            raise QueryTooSlow(detail, limit=limits.seconds) from None
        finally:
            self._running[ledger_id] -= 1

    async def _answered(self, ledger_id: UUID, sql: str, parameters: Parameters, form: Format) -> bytes:
        process = await self._taken()
        try:
            known = await self._asked(process, Statement(sql, parameters, form, self._limits, tuple(VIEWS)))
            assert isinstance(known, Views)
            return await self._read(process, ledger_id, known.names)
        except FileNotFoundError as error:
            log.warning("a query's file is missing: %s", error)
            raise Unavailable(UNREADABLE) from error
        finally:
            await _ended(process)

    async def _read(self, process: Process, ledger_id: UUID, names: Sequence[str]) -> bytes:
        """Hand over what the views consist of, files last, and return the answer."""
        reading = Contents(self._ledger, ledger_id, datetime.now(UTC), self._limits)
        parts = {name: await reading.read(name) for name in names}
        async with holding(self._store, [file for part in parts.values() for file in part.files]) as root:
            result = await self._asked(process, _tables(root, ledger_id, parts))
        assert isinstance(result, Result)
        return result.content

    async def _taken(self) -> Process:
        """Return a process that waits, and start another in its place."""
        self._start()
        starting = self._ahead.pop(0)
        self._start()
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._ahead.append(starting)
            raise
        except OSError as error:
            raise Unavailable(f"no process for the query could be started: {error.strerror}") from error

    async def _asked(self, process: Process, message: Statement | Tables) -> Answer:
        """Send a message and return the answer to it. Raises what a refusal means."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            body = frame(message)
            for begin in range(0, len(body), PIECE_BYTES):  # of what does not fit into the pipe asyncio makes a copy
                process.stdin.write(body[begin : begin + PIECE_BYTES])
                await process.stdin.drain()
            del body  # which may be large, and the query long
            size = int.from_bytes(await process.stdout.readexactly(8), "little")
            answer: Answer = _answers.decode(await process.stdout.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            raise self._died(await process.wait()) from None
        if isinstance(answer, Refused):
            raise _error(answer)
        return answer

    def _died(self, status: int) -> LedgerError:
        """Return what the end of a process means that was asked something."""
        log.warning("a query's process ended with status %d", status)
        bound = self._limits.memory_bytes
        detail = f"the query took more than its {bound} bytes of memory, or its time of the processor, and was stopped"
        return QueryTooHungry(detail, limit=bound)


def _tables(root: Path, ledger_id: UUID, parts: Mapping[str, Part]) -> Tables:
    """Return what the process is told; files lie below the ledger's directory."""
    directory = f"ledger={ledger_id}"
    return Tables(
        directory=str(root / directory),
        streams={name: part.stream for name, part in parts.items()},
        files={name: [file.path.removeprefix(f"{directory}/") for file in part.files] for name, part in parts.items()},
        columns=COLUMNS,
    )


def _error(refused: Refused) -> Exception:
    match refused.kind:
        case "rows":
            return TooLarge(refused.detail, limit=refused.limit or 0)
        case "memory":
            return QueryTooHungry(
                f"the query took more than its {refused.limit} bytes of memory and was stopped", limit=refused.limit
            )
        case "file":
            log.warning("a query could not read a file: %s", refused.detail)
            return Unavailable(UNREADABLE)
        case "statement":
            return QueryRefused(refused.detail)
        case "fault":
            return RuntimeError(f"a query's process failed: {refused.detail}")


async def _started() -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "projections.query.process",
        stdin=PIPE,
        stdout=PIPE,
        cwd=ROOT,
        env={"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        start_new_session=True,
    )


async def _ended(process: Process) -> None:
    """Kill a process and wait until it has gone."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await asyncio.shield(process.wait())
