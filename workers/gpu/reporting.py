"""What the server is told, again and again until it has answered, and what its answers mean."""

import asyncio
import logging
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

import tachograph
from workers.gpu import shipping, system_metrics
from workers.gpu.answers import is_locked_out, is_passing
from workers.gpu.outcome import Outcome
from workers.gpu.records import RunDirectory, RunRecord
from workers.gpu.shipping import Batch
from workers.gpu.stages import Stage
from workers.gpu.system_metrics import Series

logger = logging.getLogger(__name__)

T = TypeVar("T")

BACKOFF_SECONDS: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
REFUSALS_BORNE: Final = 3

ACTIVE: Final = frozenset({"starting", "running", "stopping", "idle"})


class Standing(Enum):
    """What the server holds of our attempt."""

    OURS = "ours"
    OVER = "over"  # its own program ended it: nothing more to report
    KILLED = "killed"  # ours, and somebody wants it to end
    STOP = "stop"  # superseded, put back into the queue, killed or deleted: end the process


class Refused(Exception):
    """The server takes nothing more from this attempt; `standing` says why."""

    def __init__(self, standing: Standing) -> None:
        super().__init__(standing.value)
        self.standing = standing


class Calls:
    """Makes the SDK's blocking calls in threads of their own, so that a slow one holds up only its caller.

    Each takes `seconds` at most, the SDK's own repetitions included.
    """

    def __init__(self, threads: int, seconds: float) -> None:
        self.seconds = seconds
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="call")
        self.pending = 0

    async def once(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Make one call; raises what it raises."""
        self.pending += 1
        future = asyncio.get_running_loop().run_in_executor(self._executor, partial(call, *args, **kwargs))
        future.add_done_callback(self._done)
        return await future

    async def until_answered(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Repeat a call until the server has answered; raises `tachograph.Problem` for an answer that is final.

        A refused key is not final: an operator may put it right, and until then a run's facts are kept. It is tried
        again after as long as a call may take.
        """
        while True:
            try:
                return await self.until_accepted(call, *args, **kwargs)
            except tachograph.Problem as problem:
                if not is_locked_out(problem):
                    raise
                logger.warning("the worker's key is refused, trying on: %s", problem)
            await asyncio.sleep(self.seconds)

    async def until_accepted(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Repeat a call until the server has answered; raises `tachograph.Problem` for an answer that is final."""
        attempt = 0
        while True:
            try:
                return await self.once(call, *args, **kwargs)
            except tachograph.Error as error:
                if not is_passing(error):
                    raise
                if attempt in {0, 10} or attempt % 100 == 0:
                    logger.warning("no answer yet (attempt %d), trying on: %s", attempt + 1, error)
            pause = BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS) - 1)]
            attempt += 1
            await asyncio.sleep(pause * random.uniform(0.7, 1.0))  # noqa: S311 (spreading load, no secret)

    def close(self) -> None:
        """Start no more calls."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _done(self, _future: object) -> None:
        self.pending -= 1


class Conversation:
    """All that is said about one run, by its own token where that will do."""

    def __init__(self, calls: Calls, client: tachograph.Client, record: RunRecord) -> None:
        self._calls = calls
        self._client = client
        self._record = record
        self._own: tachograph.Client | None = None
        self._token_refused = False
        self._seq_shift = 0

    async def claim(self) -> tachograph.Claim:
        """Claim the run; the same claim again answers the same. One attempt; raises `tachograph.Error`."""
        record = self._record
        return await self._calls.once(
            self._client.claim,
            record.run_id,
            worker=record.worker_id,
            command_id=record.command_id,
            slots=list(record.slots),
            epoch=record.ordered_epoch,
        )

    async def standing(self) -> Standing:
        """Ask where our attempt stands."""
        try:
            run = await self._calls.until_answered(self._client.run, self._record.run_id)
        except tachograph.Problem as problem:
            if problem.status in {404, 410}:
                return Standing.STOP
            raise
        return standing_of(run, self._record.epoch)

    async def preparing(self, stage: Stage) -> None:
        """Report a stage of the preparation. Raises `Refused`."""
        said = {"message": stage.message, "fraction": stage.fraction}
        await self._report("preparing", stage=stage.stage, **{name: value for name, value in said.items() if value})

    async def started(self, pid: int | None, host: dict[str, Any]) -> None:
        """Report that the program runs. Raises `Refused`."""
        await self._report("started", pid=pid, host=host)

    async def idle(self, outcome: Outcome) -> None:
        """Report how the program ended whose slots are kept. Raises `Refused`."""
        error = None if outcome.error is None else msgspec.to_builtins(outcome.error)
        fields = {"exit_code": outcome.exit_code, "error": error}
        await self._report("idle", **{name: value for name, value in fields.items() if value is not None})

    async def stopping(self, exit_code: int | None) -> None:
        """Report that the commands are done and outputs are being stored. Raises `Refused`."""
        await self._report("stopping", **({} if exit_code is None else {"exit_code": exit_code}))

    async def ended(self, outcome: Outcome, directory: RunDirectory) -> bool:
        """Report the end; False if the run goes on all the same: termination protection. Raises `Refused`."""
        fields = {
            "status": outcome.status,
            "cause": outcome.cause,
            "exit_code": outcome.exit_code,
            "error": None if outcome.error is None else msgspec.to_builtins(outcome.error),
            "last_seq": self._last_seqs(directory),
        }
        run = await self._report("ended", **{name: value for name, value in fields.items() if value is not None})
        return run["status"] not in ACTIVE

    async def left_by_programs(self, directory: RunDirectory) -> None:
        """Deliver what programs of the run had logged when they were killed; what is refused is said."""
        if not directory.spool.is_dir():
            return
        record = self._record
        sync = partial(tachograph.sync, directory.spool, url=self._client.url, api_key=record.token)
        try:
            done = await self._calls.until_accepted(sync, retry_seconds=self._calls.seconds)
        except tachograph.Problem as problem:
            logger.error("run %s: what its programs left is lost: %s", record.run_id, problem)
            return
        if done.delivered or done.refused or done.skipped:
            logger.info(
                "run %s: of what its programs left, %d requests were delivered, %d refused, %d journals skipped",
                record.run_id,
                done.delivered,
                done.refused,
                len(done.skipped),
            )

    def _last_seqs(self, directory: RunDirectory) -> dict[str, int]:
        """Return the last batch of each of our sources that has sent any."""
        logs, figures = shipping.last_seq(directory), system_metrics.last_seq(directory)
        found = {"worker": logs + self._seq_shift}
        return found | ({system_metrics.SOURCE: figures} if figures else {})

    async def figures(self, seq: int, series: Series) -> None:
        """Store a batch of the machine's figures; one that is refused is said and skipped. Raises `Refused`."""
        record = self._record
        batch = {"epoch": record.epoch, "source": system_metrics.SOURCE, "seq": seq, "series": series}
        try:
            await self._store(tachograph.Client.send_system_metrics, batch)
        except tachograph.Problem as problem:
            standing = await self.standing()
            if standing is Standing.STOP:
                raise Refused(standing) from problem
            logger.error("run %s: figures of the machine were refused: %s", record.run_id, problem)

    async def logs(self, batch: Batch) -> None:
        """Store a batch of lines; one that is refused again and again is said and skipped. Raises `Refused`."""
        lines: list[tachograph.LogLine] = [
            {"time_us": line.time_us, "stream": line.stream, "text": line.text} for line in batch.lines
        ]
        keyed = {"epoch": self._record.epoch, "source": "worker", "lines": lines}
        for refusals in range(1, 2 * REFUSALS_BORNE):
            try:
                await self._store(tachograph.Client.send_logs, keyed | {"seq": batch.seq + self._seq_shift})
            except tachograph.Problem as problem:
                await self._log_refused(problem, batch, refusals)
            else:
                return
        logger.error("run %s: batch %d (%d lines) was refused for good", self._record.run_id, batch.seq, len(lines))

    async def _store(self, send: Callable[..., tachograph.Accepted], batch: dict[str, Any]) -> None:
        """Send by the run's token; by the worker's key once the token is refused (it expires)."""
        run_id = self._record.run_id
        if not self._token_refused:
            try:
                await self._calls.until_accepted(send, self._token_client(), run_id, **batch)
            except tachograph.Problem as problem:
                if not is_locked_out(problem):
                    raise
                logger.warning("run %s: its token is refused, using the worker's key: %s", run_id, problem)
                self._token_refused = True
            else:
                return
        await self._calls.until_answered(send, self._client, run_id, **batch)

    async def _log_refused(self, problem: tachograph.Problem, batch: Batch, refusals: int) -> None:
        """Wait before the next attempt at a refused batch; raises `Refused` if there is none."""
        run_id = self._record.run_id
        standing = await self.standing()
        if standing is Standing.STOP:
            logger.info("run %s: %d lines are not taken any more: %s", run_id, len(batch.lines), problem)
            raise Refused(standing)
        logger.warning("run %s: batch %d was refused: %s", run_id, batch.seq, problem)
        if problem.status == 409 and refusals == REFUSALS_BORNE and standing is not Standing.OVER:
            # This seq was stored with other lines, before a crash that lost `ship.json`: rather twice than never.
            logger.error("run %s: batch %d is known with other lines, sending it as a new one", run_id, batch.seq)
            self._seq_shift += 1
        await asyncio.sleep(BACKOFF_SECONDS[min(refusals, 4)])

    async def _report(self, report: str, **fields: Any) -> Any:
        """Report; the answer is the run, or None if there was none that mattered. Raises `Refused`."""
        run_id, epoch = self._record.run_id, self._record.epoch
        for attempt in range(2 * REFUSALS_BORNE):
            try:
                return await self._calls.until_answered(
                    self._client.report, run_id, epoch=epoch, report=report, **fields
                )
            except tachograph.Problem as problem:
                standing = await self.standing()
                if standing in {Standing.STOP, Standing.OVER}:
                    logger.info("run %s: %r is not taken any more: %s", run_id, report, problem)
                    raise Refused(standing) from problem
                logger.warning("run %s: %r was refused: %s", run_id, report, problem)
                if report in {"preparing", "stopping", "idle"}:  # said before, or of no consequence
                    return None
                await asyncio.sleep(BACKOFF_SECONDS[min(attempt, 4)])
        logger.error("run %s: %r was refused for good", run_id, report)
        raise Refused(Standing.OVER)

    def _token_client(self) -> tachograph.Client:
        if self._own is None:
            self._own = tachograph.Client(
                self._client.url,
                self._record.token,
                timeout_seconds=self._calls.seconds,
                retry_seconds=self._calls.seconds,
            )
        return self._own


def standing_of(run: tachograph.RunResource, epoch: int) -> Standing:
    """Say what a run, as the server shows it, means for the attempt `epoch`."""
    if run["epoch"] != epoch or run["status"] in {"queued", "killed", "deleted"}:
        return Standing.STOP
    if run["status"] in {"completed", "failed"}:
        return Standing.OVER
    return Standing.KILLED if run["kill_requested"] else Standing.OURS
