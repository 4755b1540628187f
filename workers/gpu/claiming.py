"""A run is claimed: the server says whether it is ours, and what it is made of."""

import asyncio
import logging
from typing import Final

import tachograph
from workers.gpu.answers import is_locked_out, is_passing
from workers.gpu.records import Command, Phase, RunRecord, Volume, now_us, user_kill
from workers.gpu.reporting import Conversation

logger = logging.getLogger(__name__)

AGAIN_SECONDS: Final = 0.5


async def claimed(server: Conversation, record: RunRecord) -> bool:
    """Claim the run and put what it is made of into its record; False if it is not ours to have.

    What gets no answer is asked again until the order's deadline.
    """
    while True:
        try:
            _take(await server.claim(), record)
        except tachograph.Error as error:
            may_pass = is_passing(error) or is_locked_out(error)
            if not may_pass or now_us() > record.deadline_us:
                logger.info("run %s: not claimed: %s", record.run_id, error)
                return False
            logger.warning("run %s: the claim got no answer, again: %s", record.run_id, error)
            await asyncio.sleep(AGAIN_SECONDS)
        else:
            return True


def _take(claim: tachograph.Claim, record: RunRecord) -> None:
    record.project_id, record.name = claim["project_id"], claim["name"]
    record.epoch, record.token = claim["epoch"], claim["token"]
    record.secrets, record.code = tuple(claim["secrets"]), claim["code"]
    several = [Command(tuple(one["argv"]), one["working_directory"]) for one in claim["commands"]]
    record.commands = tuple(several) or (Command(tuple(claim["command"])),)
    record.import_volumes = tuple(Volume(**one) for one in claim["import_volumes"])
    record.export_volumes = tuple(Volume(**one) for one in claim["export_volumes"])
    record.environment = dict(claim["environment"])
    record.phase = Phase.CLAIMED
    if claim["kill_requested"] and record.kill is None:
        record.kill = user_kill()
