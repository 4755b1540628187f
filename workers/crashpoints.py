"""Named steps at which a test can make a process die, as `kill -9` would.

`TACHOGRAPH_CRASH_AT=relay.after_publish` ends the process the first time it comes there. Unset, a crash point
is one comparison. Every step of a role that others can see has one, and is named here: what is written before it
must be found, or done again, by the next process.
"""

import os
import signal
from collections.abc import Mapping
from typing import Final

from events.settings import SettingsError

POINTS: Final[Mapping[str, str]] = {
    "relay.after_rewind": "a cursor went back for what a stream lost; where the streams end is not remembered",
    "relay.after_erase": "messages of a purged run that an older store brought back are overwritten again",
    "relay.after_tails": "where the streams end is remembered; nothing is published yet",
    "relay.after_publish": "a page is in JetStream; neither its end nor the cursor says so",
    "relay.after_note_tails": "where the streams end now is remembered; the cursor has not moved",
    "relay.after_move_cursor": "the cursor is behind the page",
    "relay.after_hold": "an event that cannot be published is a dead letter; what stood before it is not passed",
    "relay.after_resolve": "the dead letter is resolved; the cursor has not moved",
    "projector.after_commit": "a page's rows and its checkpoint are written",
    "projector.after_hold": "an event that a projection cannot take is a dead letter",
    "projector.after_pass_over": "a projection stands behind an event that was discarded",
    "projector.after_resolve": "the dead letter is resolved",
    "archiver.after_create": "partitions are made",
    "archiver.after_drop": "partitions that are wholly in Parquet are dropped",
    "archiver.after_sweep": "one file that no manifest names is removed",
    "archiver.after_stale_upload": "the parts of an upload that nobody went on with are gone; its row is there",
    "archiver.after_orphan_parts": "parts that belong to no artifact and no upload are gone",
    "archiver.after_write": "a file is written under its temporary name",
    "archiver.after_rename": "a file has its name; no manifest names it",
    "archiver.after_manifest": "a file is in the manifest and the ledger",
    "archiver.after_refusal": "a file that the ledger refused is removed",
    "archiver.after_merge_write": "the file that several become is written under its temporary name",
    "archiver.after_merge_rename": "it has its name; no manifest names it",
    "archiver.after_merge": "the manifest names it instead of the others, which are still there",
    "archiver.after_removal": "one of those is removed",
    "archiver.after_move_cursor": "the cursor is behind what is in Parquet",
    "purge.after_erase": "the run's key, payloads and rows are gone",
    "purge.after_files": "its files are gone too",
    "purge.after_artifacts": "its artifacts are gone from the object store",
    "purge.after_messages": "some of its messages are overwritten",
    "purge.after_rewrite_run": "the table of runs is rewritten",
    "purge.after_rewrite_artifact": "the table of artifacts is rewritten",
    "purge.after_rewrite_run_facet": "the table of what runs are found by is rewritten",
    "purge.after_rewrite_metric_summary": "the table of metric summaries is rewritten",
    "purge.after_rewrite_data_key": "the table of keys is rewritten",
    "purge.after_receipt": "the receipt is an event; what was found is still noted",
    "sweeper.after_trial": "a trial is created; the others that there is room for are not",
    "sweeper.after_kill": "one run of a cancelled sweep is asked to end; the others are not",
    "sweeper.after_finish": "a sweep is finished",
    "alerter.after_fire": "alerts are events; neither state, deliveries nor cursor say so",
    "alerter.after_delivery": "a webhook was called; the log does not say so",
}
"""What has happened, and what has not, when a process dies there."""

_CRASH_AT: Final = os.environ.get("TACHOGRAPH_CRASH_AT")


def crash_point(name: str) -> None:
    """Die here if the environment says so."""
    if name == _CRASH_AT:
        os.kill(os.getpid(), signal.SIGKILL)


def check() -> None:
    """Refuse a name that is no step, since the process would never die. Raises `SettingsError`."""
    if _CRASH_AT is not None and _CRASH_AT not in POINTS:
        raise SettingsError(f"TACHOGRAPH_CRASH_AT is none of {', '.join(POINTS)}: {_CRASH_AT!r}")
