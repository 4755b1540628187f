"""How long an answer to a chart counts, and how to tell that it still does. Source: RFC 9110, 8.8.3; RFC 9111, 5.2.2.

An entity tag is weak: it tells what the answer says apart from the ledger's position and the last bits of a mean.
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from events.types import Status
from projections.charts.questions import Question
from projections.charts.reading import began_us
from projections.charts.run_points import Newest
from projections.runs import StoredRun
from service.charts.answers import Shape

GENERATION: Final = 3
"""Goes up when the same points are answered with something else than before."""

CLOSED: Final = frozenset({Status.COMPLETED, Status.FAILED, Status.KILLED})
CLOSED_AFTER: Final = timedelta(hours=1)
CLOSED_SECONDS: Final = 86_400
REVALIDATED: Final = "private, no-cache"


def tag(question: Question, shape: Shape, runs: Sequence[StoredRun], newest: Sequence[Newest], *more: object) -> str:
    """Return the opaque part of the entity tag of an answer, quoted; `more` is what else it tells."""
    began = [began_us(one) for one in runs] if question.axis.kind == "relative" else []
    told = (GENERATION, question, shape, [one.run_id for one in runs], [one.position for one in newest], began, more)
    return f'"{hashlib.sha256(msgspec.msgpack.encode(told)).hexdigest()[:32]}"'


def control(runs: Sequence[StoredRun], newest: Sequence[Newest], now: datetime | None = None) -> str:
    """Return the `Cache-Control` of curves: a day where all runs ended long ago and lie in Parquet, else none."""
    latest = (now or datetime.now(UTC)) - CLOSED_AFTER
    closed = all(
        one.run.status in CLOSED and one.run.ended_at is not None and one.run.ended_at < latest and not state.hot
        for one, state in zip(runs, newest, strict=True)
    )
    return f"private, max-age={CLOSED_SECONDS}" if closed else REVALIDATED
