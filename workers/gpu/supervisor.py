"""One run on this machine, from the claim to the reported end.

Everything that matters is on disk before it is relied on, so `run` may be broken off at any point, by kill -9 too,
and begun again by another agent: it finds out from the files how far things are.
"""

import asyncio
import logging
import platform
import socket
from collections.abc import Callable
from typing import Any, Final, TypeVar

from workers.gpu import environment, outcome
from workers.gpu.claiming import claimed
from workers.gpu.machine import Machine
from workers.gpu.outcome import Outcome
from workers.gpu.process import LaunchFailed, Shim
from workers.gpu.records import Exit, Kill, Phase, RunDirectory, RunRecord, Started, now_us, user_kill
from workers.gpu.reporting import Conversation, Refused, Standing
from workers.gpu.settings import PREPARATION_SECONDS, STOPPING_SECONDS
from workers.gpu.shipping import LogShipper
from workers.gpu.stages import Stage, prepare, take_out
from workers.gpu.system_metrics import Meter, SystemMetrics
from workers.gpu.volumes import Interrupted, Patience, Places, VolumeFailed

logger = logging.getLogger(__name__)

T = TypeVar("T")

POLL_SECONDS: Final = 0.1
STANDING_SECONDS: Final = 30.0
STOP_GRACE_SECONDS: Final = 5.0
STDERR_BYTES: Final = 64 * 1024


class Supervisor:
    """Sees one run through. `released` is called as soon as its process is gone and its slots may be used again."""

    def __init__(
        self,
        machine: Machine,
        directory: RunDirectory,
        record: RunRecord,
        *,
        changed: Callable[[], None],
        released: Callable[[str], None],
    ) -> None:
        self.record = record
        self._machine = machine
        self._directory = directory
        self._changed = changed
        self._released = released
        self._server = Conversation(machine.calls, machine.client, record)
        self._shim = Shim(directory, record.run_id)
        self._places = Places(directory, record.run_id, machine.client, machine.volumes)
        self._patience = Patience(machine.preparation_seconds, PREPARATION_SECONDS)
        self._gone = asyncio.Event()
        self._woken = asyncio.Event()  # an order to kill is there, or nothing more is wanted of this attempt
        self._launched = False
        self._stopped = False  # the server wants nothing more of this attempt

    async def run(self) -> None:
        """See the run through; returns when nothing is left to do and its record is gone."""
        if self.record.phase is Phase.CLAIMING:
            if not await self._claim():
                await self._forget()
                return
        elif self.record.phase is Phase.CLAIMED and not self._begun():
            await self._check_standing()  # nobody beat for it meanwhile: it may have gone to another worker
        if self.record.phase in {Phase.CLAIMED, Phase.STARTED}:
            await self._attempt()
            if not self._stopped:
                ended = await self._take_out()
                await self._server.left_by_programs(self._directory)
                await self._report_end(ended)
        if self.record.phase is Phase.IDLE:
            await self._keep_until_killed()
        await self._forget()

    def kill(self, kill: Kill) -> None:
        """Have the run ended; a second order changes nothing."""
        if self.record.phase is Phase.ENDED:
            return
        if self.record.kill is None:
            logger.info("run %s: to be killed within %g s (%s)", self.record.run_id, kill.grace_seconds, kill.cause)
            self.record.kill = kill
            self._save()
        self._wake()
        self._enforce()

    def _wake(self) -> None:
        """Whatever takes long gives up: there is an order to kill, or nothing more is wanted."""
        self._woken.set()
        self._patience.give_up()

    # --- claim ------------------------------------------------------------------------------------------------

    async def _claim(self) -> bool:
        """Claim the run; False if it is not ours to have."""
        record = self.record
        if not await claimed(self._server, record):
            return False
        await asyncio.to_thread(self._directory.save, record)
        logger.info("run %s: claimed as attempt %d on %s", record.run_id, record.epoch, ", ".join(record.slots))
        self._changed()
        return True

    # --- the attempt ------------------------------------------------------------------------------------------

    async def _attempt(self) -> None:
        """Start or adopt the program, follow it until it is gone and its log is stored."""
        adopted = self._begun()
        begun: asyncio.Future[Started | None] = asyncio.get_running_loop().create_future()
        async with asyncio.TaskGroup() as tasks:
            checking = tasks.create_task(self._keep_checking(at_once=adopted))
            shipping = tasks.create_task(self._ship())
            stages: asyncio.Queue[Stage | None] = asyncio.Queue()
            reporting = tasks.create_task(self._report_start(stages, begun, adopted=adopted))
            begun.set_result(await self._begin(stages.put_nowait))
            stages.put_nowait(None)
            measuring = tasks.create_task(self._measure())
            await self._until_gone()
            await asyncio.wait({shipping, reporting, measuring})
            checking.cancel()

    def _begun(self) -> bool:
        """Say whether the program was started before, by this agent or an earlier one."""
        return self._directory.started() is not None or self._directory.exit() is not None or self._shim.lives()

    async def _begin(self, say: Callable[[Stage], None]) -> Started | None:
        """Adopt the program or start it; what stands in the way becomes its exit. None if there is no program."""
        if self._begun():
            logger.info("run %s: taken up again as attempt %d", self.record.run_id, self.record.epoch)
        elif self.record.kill is not None or self._stopped:
            await self._never_started("")
        else:
            try:
                await self._prepare(say)
                await asyncio.to_thread(self._launch)
            except Interrupted:
                await self._never_started("")
            except (LaunchFailed, environment.MissingSecret, VolumeFailed, OSError) as error:
                # what exactly is the run's to tell, and goes with it: a command, a volume's or an artifact's name
                logger.warning("run %s: not started: %s", self.record.run_id, type(error).__name__)
                await self._never_started(str(error))
        self._launched = True
        self._enforce()
        return self._directory.started()

    async def _prepare(self, say: Callable[[Stage], None]) -> None:
        """Bring in what the run needs. Raises `VolumeFailed`, `Interrupted`."""
        if self.record.preparing_since_us is None:
            self.record.preparing_since_us = now_us()
        spent_seconds = _seconds_since(self.record.preparing_since_us)
        self._patience = Patience(self._machine.preparation_seconds, PREPARATION_SECONDS, spent_seconds)
        await asyncio.to_thread(self._save)
        await asyncio.to_thread(self._shim.sweep)  # of a shim that was killed before it could leave a trace
        await prepare(self.record, self._places, self._patience, say, self._in_thread)

    async def _in_thread(self, call: Callable[..., T], *args: Any) -> T:
        """Make a call that may take long. If we are broken off it gives up and is waited for: another may follow."""
        work = asyncio.ensure_future(self._machine.calls.once(call, *args))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            self._patience.give_up()
            await asyncio.wait({work})
            raise

    def _has_run(self) -> bool:
        """Say whether there is or was a program, where `started.json` does not tell (a full disk)."""
        exit_ = self._directory.exit()
        return self._shim.lives() if exit_ is None else exit_.ran

    def _launch(self) -> None:
        record, machine = self.record, self._machine
        variables = environment.program_environment(
            machine.base_environment,
            record.environment,
            environment.resolve_secrets(record.secrets, machine.own_environment),
            machine.devices(record.slots),
            environment.identity(
                machine.client.url,
                record.run_id,
                record.token,
                record.epoch,
                record.project_id,
                self._directory,
            ),
        )
        self._shim.launch(record.commands, variables)

    async def _never_started(self, reason: str) -> None:
        if self._directory.exit() is None:
            exit_ = Exit(ended_at_us=now_us(), spawn_error=reason)
            await asyncio.to_thread(self._directory.write_exit, exit_)

    async def _until_gone(self) -> None:
        while self._shim.lives():  # noqa: ASYNC110 (another process, perhaps no child of ours)
            await asyncio.sleep(POLL_SECONDS)
        if self._directory.exit() is None:
            swept = await asyncio.to_thread(self._shim.sweep)
            logger.error("run %s: its shim vanished; %d processes swept", self.record.run_id, swept)
        self._gone.set()
        if not self.record.protection:
            self._released(self.record.run_id)

    def _enforce(self) -> None:
        """Have the program ended if it is to end; harmless if repeated."""
        kill = self.record.kill
        if self._stopped and kill is None:
            kill = Kill("fenced", STOP_GRACE_SECONDS, now_us())
        if kill is not None and self._launched and not self._gone.is_set():
            self._shim.end(kill)

    # --- what the server hears --------------------------------------------------------------------------------

    async def _report_start(
        self, stages: asyncio.Queue[Stage | None], begun: asyncio.Future[Started | None], *, adopted: bool
    ) -> None:
        """Report the stages of the preparation and the start, once each where that can be had."""
        if self.record.phase is not Phase.CLAIMED:
            return
        try:
            if not adopted:
                await self._server.preparing(Stage("working directory"))
            while (stage := await stages.get()) is not None:
                await self._server.preparing(stage)
            started = await begun
            if started is None and not self._has_run():
                return
            await self._server.started(started.pid if started else None, _host())
        except Refused as refused:
            self._refused(refused.standing)
        else:
            self.record.phase = Phase.STARTED
            await asyncio.to_thread(self._directory.save, self.record)

    async def _ship(self) -> None:
        try:
            await LogShipper(self._directory, self._server.logs).run(self._gone)
        except Refused as refused:
            self._refused(refused.standing)

    async def _measure(self) -> None:
        """Send what the run uses of the machine, as long as its program lives."""
        started = self._directory.started()
        if started is None:
            return
        devices = self._machine.devices(self.record.slots).get("CUDA_VISIBLE_DEVICES", "")
        meter = Meter(started.shim_pid, filter(None, devices.split(",")), self._directory.work)
        try:
            figures = SystemMetrics(self._directory, meter, self._server.figures, self._machine.metrics_seconds)
            await figures.run(self._gone)
        except* Refused:
            self._refused(Standing.STOP)

    async def _keep_checking(self, *, at_once: bool) -> None:
        """Ask now and then what the server holds of us: an order to kill may be lost, and beats get no answer."""
        if at_once:
            await self._check_standing()
        while True:
            await asyncio.sleep(STANDING_SECONDS)
            await self._check_standing()

    async def _check_standing(self) -> None:
        standing = await self._server.standing()
        if standing is Standing.KILLED and self.record.kill is None:
            self.kill(user_kill())
        self._refused(standing)

    def _refused(self, standing: Standing) -> None:
        """End the process if the attempt is not to go on; one whose own program said the end may finish in peace."""
        if standing is Standing.STOP and not self._stopped:
            logger.warning("run %s: attempt %d must stop", self.record.run_id, self.record.epoch)
            self._stopped = True
            self._wake()
            self._enforce()

    async def _take_out(self) -> Outcome:
        """Store the outputs of a program that ended by itself, within a deadline, and say how it ended all in all."""
        ended, exit_ = self._outcome(), self._directory.exit()
        if not self.record.export_volumes or exit_ is None or not exit_.ran or self.record.kill is not None:
            return ended
        checking = asyncio.create_task(self._keep_checking(at_once=False))
        try:
            await self._server.stopping(ended.exit_code)
            if not self._woken.is_set():
                await self._begin_to_stop()
                ended = await take_out(self.record, ended, self._places, self._patience, self._in_thread)
        except Refused as refused:
            self._refused(refused.standing)
        except Interrupted:
            logger.info("run %s: storing its outputs is broken off", self.record.run_id)
        finally:
            checking.cancel()
            await asyncio.gather(checking, return_exceptions=True)
        return self._unless_killed(ended)

    async def _begin_to_stop(self) -> None:
        """Set the deadline, or go on with an earlier agent's: what is left of it, and a tenth in any case.

        Outputs are not given up for an agent's having been away. The devices are free by now.
        """
        if self.record.stopping_since_us is None:
            self.record.stopping_since_us = now_us()
        bound = self._machine.stopping_seconds
        spent_seconds = min(_seconds_since(self.record.stopping_since_us), 0.9 * bound)
        self._patience = Patience(bound, STOPPING_SECONDS, spent_seconds)
        await asyncio.to_thread(self._save)

    def _unless_killed(self, ended: Outcome) -> Outcome:
        kill = self.record.kill
        return ended if kill is None else outcome.killed_without_program(kill)

    async def _report_end(self, ended: Outcome) -> None:
        """Say how it ended. Termination protection keeps a run whose program is gone."""
        logger.info("run %s: %s (%s, exit code %s)", self.record.run_id, ended.status, ended.cause, ended.exit_code)
        try:
            if not await self._server.ended(ended, self._directory):
                await self._server.idle(ended)
                self.record.phase = Phase.IDLE
                await asyncio.to_thread(self._directory.save, self.record)
        except Refused as refused:
            logger.info("run %s: its end was known already (%s)", self.record.run_id, refused.standing.value)

    def _outcome(self) -> Outcome:
        exit_, kill = self._directory.exit(), self.record.kill
        if exit_ is None:
            return outcome.lost(kill)
        stderr = self._directory.tail(self._directory.stderr, STDERR_BYTES)
        return outcome.classify(exit_, kill, stderr, self._directory.said())

    async def _keep_until_killed(self) -> None:
        """Keep the slots of a protected run whose program is gone, until it is killed."""
        if self.record.kill is None:
            async with asyncio.TaskGroup() as tasks:
                checking = tasks.create_task(self._keep_checking(at_once=True))
                await self._woken.wait()
                checking.cancel()
        if self.record.kill is None:  # woken because nothing more is wanted
            return
        try:
            await self._server.ended(outcome.killed_without_program(self.record.kill), self._directory)
        except Refused as refused:
            logger.info("run %s: its end was known already (%s)", self.record.run_id, refused.standing.value)

    def _save(self) -> None:
        try:
            self._directory.save(self.record)
        except OSError:
            logger.exception("run %s: its record cannot be written", self.record.run_id)

    async def _forget(self) -> None:
        self.record.phase = Phase.ENDED
        self._released(self.record.run_id)
        await asyncio.to_thread(self._directory.forget)


def _seconds_since(time_us: int) -> float:
    return (now_us() - time_us) / 1e6


def _host() -> dict[str, object]:
    return {"name": socket.gethostname(), "system": platform.platform(), "python": platform.python_version()}
