"""`python -m service replay … --to nats://… --subject S`: a range of a history published again for a new subscriber."""

import sys
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec
from nats.errors import Error as NatsError

from events import bus
from events.errors import Unavailable
from projections.replay import Replay
from projections.republish import Republisher, Sent, check_subject, count
from service.commands.bar import Bar


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where to publish: a NATS server, the subject above ours, a stream to make if none keeps it; or only to count."""

    url: str
    subject: str
    stream: str | None = None
    dry_run: bool = False


async def republish(replay: Replay, target: Target, up_to: int) -> Sent:
    """Publish, or count, what a replay tells. Raises `SubjectRefusedError` and `Unavailable`."""
    subject = check_subject(target.subject)
    begin = replay.position
    with Bar() as bar:
        if target.dry_run:
            return await count(replay, subject, _shown(bar, "count", begin, up_to))
        try:
            await (await bus.connect(target.url, name="replay", wait=False)).close()
        except (NatsError, OSError, ValueError) as error:
            where = urlsplit(target.url)
            raise Unavailable(f"NATS does not answer at {where.hostname}:{where.port}: {error}") from error
        client = await bus.connect(target.url, name="replay")  # from here on a server that restarts is waited for
        republisher = Republisher(client, subject)
        whole = False
        try:
            await republisher.ready(target.stream)
            sent = await republisher.publish(replay, _shown(bar, "publish", begin, up_to))
            whole = True
            return sent
        finally:
            if not whole and republisher.position is not None:
                print(f"stopped; go on with --after {republisher.position}", file=sys.stderr)
            await client.close()


def _shown(bar: Bar, what: str, begin: int, up_to: int) -> Callable[[int], None]:
    return lambda position: bar.show(what, position - begin, up_to - begin)


def say(sent: Sent, target: Target) -> None:
    """Print what became of a range."""
    verb = "would publish" if target.dry_run else "published"
    print(f"{verb} {sent.published} events below {target.subject} ({sent.restored} restored from Parquet)")
    if sent.erased:
        print(f"skipped {sent.erased} batches of deleted runs: their points and lines are erased")
    if sent.too_large:
        print(f"skipped {sent.too_large} events that are too large for the server's max_payload")
    sys.stdout.flush()
