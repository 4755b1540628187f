"""What must hold once everything has healed: all that was acknowledged is everywhere exactly once, and nothing else."""

import asyncio
import math
import random
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from uuid import UUID

import httpx
import pyarrow.parquet as pq

from tests.api import Json, accepted, eventually
from tests.fault.cluster import Cluster
from tests.fault.load import Load, number

SECONDS = 60.0
REPEATED_REQUESTS = 150


async def settled(wrong: Callable[[], Awaitable[object]], what: str) -> None:
    """Look until nothing is wrong any more; fails past the deadline with what was wrong last."""
    seen: list[object] = []

    async def right() -> bool:
        seen[:] = [await wrong()]
        return seen == [None]

    try:
        await eventually(right, what, SECONDS)
    except AssertionError as late:
        raise AssertionError(f"{late}: {seen[0]}") from None


async def everything_is_there_exactly_once(cluster: Cluster, load: Load, http: httpx.AsyncClient) -> None:
    """Check every store against what the clients were promised."""
    history = load.project.events()
    check_ledger(load, history)
    await settled(lambda: lag(cluster, load), "relay, projector and archiver have caught up")
    check_ledger(load, load.project.events())
    for run in load.runs:
        check_curves(load, run)
        check_lines(load, run)
        check_summaries(load, run)
        await check_parquet(cluster, load, run)
    await check_messages(cluster, load)
    await check_repeats(load, http)


async def lag(cluster: Cluster, load: Load) -> object:
    """Return what is still behind, None when nothing is."""
    ledger = UUID(load.project.id)
    ((head,),) = await cluster.rows("select position from head where ledger_id = $1", ledger)
    relay = await cluster.rows("select position from cursor where reader = 'relay' and ledger_id = $1", ledger)
    if [row[0] for row in relay] != [head]:
        return {"relay": relay, "head": head}
    behind = await cluster.rows("select * from checkpoint where ledger_id = $1 and position < $2", ledger, head)
    if behind:
        return behind
    rows = await cluster.rows("select kind, sum(rows) from segment where ledger_id = $1 group by kind", ledger)
    archived = dict(rows)
    points = sum(len(points) for run in load.runs for points in load.points_of(run).values())
    lines = sum(len(lines) for run in load.runs for lines in load.lines_of(run).values())
    expected = {kind: count for kind, count in (("metrics", points), ("logs", lines)) if count}
    return None if archived == expected else {"archived": archived, "expected": expected}


def check_ledger(load: Load, history: list[Json]) -> None:
    """Every acknowledged batch is one event, and no other is there; the whole history can be proved."""
    report = load.project.verified()
    assert (report["verified"], report["first_bad"]) == (True, None)
    positions = [event["position"] for event in history]
    assert positions == list(range(1, len(history) + 1))
    assert len({event["id"] for event in history}) == len(history)
    found = Counter(
        (event["subject"].removeprefix("runs/"), event["sender"], event["seq"]) for event in history if "seq" in event
    )
    promised = {(client.run["id"], client.source, seq) for client in load.clients for seq in client.seqs}
    assert set(found) == promised
    assert set(found.values()) == {1}
    edits = Counter(event["subject"] for event in history if event["type"] == "run.summary_updated")
    promised_edits = {f"runs/{run['id']}": len(load.summary_of(run)) for run in load.runs}
    assert edits == Counter(promised_edits)


def check_curves(load: Load, run: Json) -> None:
    """Every point is on its curve, once, with its value."""
    expected = load.points_of(run)
    parameters = {"metric": list(expected), "buckets": 20_000}
    curves = accepted(load.project.api.get(f"/runs/{run['id']}/chart", params=parameters))["series"]
    for curve in curves:
        points = expected[curve["metric"]]
        assert not curve["sampled"]
        assert curve["points"] == len(points)
        assert curve["x"] == sorted(points)
        assert curve["last"] == [points[step] for step in curve["x"]]
        assert set(curve["count"]) <= {1}


def check_lines(load: Load, run: Json) -> None:
    """Every line is there once, each source's in its order."""
    texts: list[str] = []
    after = None
    while True:
        parameters = {"limit": 1_000} | ({"after": after} if after else {})
        page = accepted(load.project.api.get(f"/runs/{run['id']}/logs", params=parameters))
        texts += [line["text"] for line in page["lines"]]
        after = page["next"]
        if after is None:
            break
    for source, lines in load.lines_of(run).items():
        assert [text for text in texts if text.startswith(f"{source} ")] == lines
    assert len(texts) == sum(map(len, load.lines_of(run).values()))


def check_summaries(load: Load, run: Json) -> None:
    """The run's summary, and what is said of each of its metrics, come from exactly those requests and points."""
    shown = accepted(load.project.api.get(f"/runs/{run['id']}"))
    assert shown["summary"] == load.summary_of(run)
    assert (shown["status"], shown["synced"]) == ("completed", True)
    metrics = accepted(load.project.api.get(f"/runs/{run['id']}/metrics"))["metrics"]
    expected = load.points_of(run)
    assert {one["name"] for one in metrics} == {metric for metric, points in expected.items() if points}
    for one in metrics:
        points = expected[one["name"]]
        numbers = [value for value in map(number, points.values()) if not math.isnan(value)]
        assert (one["count"], one["nan_count"]) == (len(points), len(points) - len(numbers))
        assert (one["first_step"], one["last_step"]) == (min(points), max(points))
        assert one["last"] == points[max(points)]
        assert (number(one["min"]), number(one["max"])) == (min(numbers), max(numbers))


async def check_parquet(cluster: Cluster, load: Load, run: Json) -> None:
    """The files that the manifest names hold every point and every line once."""
    segments = await cluster.rows("select kind, path, rows from segment where run_id = $1", UUID(run["id"]))
    points: Counter[tuple[str, int, bytes]] = Counter()
    texts: Counter[str] = Counter()
    for segment in segments:
        table = await asyncio.to_thread(pq.read_table, cluster.stack.home.parquet / segment["path"])
        assert table.num_rows == segment["rows"]
        if segment["kind"] == "logs":
            texts.update(table.column("text").to_pylist())
            continue
        columns = [table.column(name).to_pylist() for name in ("metric", "step", "value")]
        points.update((metric, step, bits(value)) for metric, step, value in zip(*columns, strict=True))
    assert points == Counter(
        (metric, step, bits(number(value)))
        for metric, own in load.points_of(run).items()
        for step, value in own.items()
    )
    assert texts == Counter(text for lines in load.lines_of(run).values() for text in lines)


def bits(value: float) -> bytes:
    return b"NaN" if math.isnan(value) else struct.pack("<d", value)


async def check_messages(cluster: Cluster, load: Load) -> None:
    """Every event was published, for the first time in the ledger's order."""
    history = load.project.events()
    expected = {
        "EVENTS": [UUID(event["id"]) for event in history if "seq" not in event],
        "TELEMETRY": [UUID(event["id"]) for event in history if "seq" in event],
    }

    async def missing() -> object:
        published = await cluster.published(load.project.id)
        return [one for stream, ids in expected.items() for one in set(ids) - set(published[stream])] or None

    await settled(missing, "every event is in JetStream")
    published = await cluster.published(load.project.id)
    for stream, ids in expected.items():
        assert list(dict.fromkeys(published[stream]))[: len(ids)] == ids


async def check_repeats(load: Load, http: httpx.AsyncClient) -> None:
    """Whoever repeats an acknowledged request is answered as before, and nothing is recorded again."""
    before = load.project.head()
    promises = [promise for client in load.clients for promise in client.promises]
    for promise in random.Random(0).sample(promises, min(REPEATED_REQUESTS, len(promises))):
        again = await http.send(promise.request)
        assert (again.status_code, again.content) == (promise.status, promise.content), str(promise.request.url)
    assert load.project.head() == before
