"""Log lines are read over the border between Parquet and Postgres: in order, from the end, searched, filtered."""

import pytest

from tests.integration.telemetry import TIME_US, World
from workers.archive_policy import Policy

NAN, INF = float("nan"), float("inf")
LATER = Policy(age_seconds=3600, tail_seconds=0, hot_bytes=1 << 30)


async def logged(world: World) -> tuple[object, list[str]]:
    run_id = await world.started_run()
    texts = []
    for number in range(12):
        own = [f"line {number}.{line}" for line in range(3)]
        texts += own
        await world.lines(run_id, *own, stream="stderr" if number % 4 == 3 else "stdout")
        if number in (2, 5, 8):
            await world.archive()
    return run_id, texts


async def test_lines_are_read_in_order_over_the_border_and_page_by_page(world: World) -> None:
    run_id, texts = await logged(world)
    stored = await world.stored(run_id)  # type: ignore[arg-type]
    assert len([path for path in world.files() if path.name.startswith("logs")]) == 3
    read, after = [], None
    for _ in range(20):
        page = await world.logs.read(stored, after=after, limit=5)
        read += [line.text for line in page.lines]
        after = page.next
        if after is None:
            break
    assert read == texts


@pytest.mark.parametrize("count", [1, 9, 10, 20, 36, 100])
async def test_the_last_lines_are_found_from_the_end(world: World, count: int) -> None:
    run_id, texts = await logged(world)
    page = await world.logs.read(await world.stored(run_id), tail=count)  # type: ignore[arg-type]
    assert [line.text for line in page.lines] == texts[-count:]
    assert page.last == page.lines[-1].cursor


async def test_lines_are_searched_and_filtered_on_both_sides(world: World) -> None:
    run_id, texts = await logged(world)
    stored = await world.stored(run_id)  # type: ignore[arg-type]
    found = await world.logs.read(stored, search=".1")
    assert [line.text for line in found.lines] == [text for text in texts if ".1" in text]
    errors = await world.logs.read(stored, stream="stderr", tail=4)
    assert [line.text for line in errors.lines] == ["line 7.2", "line 11.0", "line 11.1", "line 11.2"]
    assert (await world.logs.read(stored, search="%")).lines == []
    assert errors.lines[0].time_us == TIME_US + 2


@pytest.mark.parametrize("cursor", ["", "1", "1:", ":", "a:1", "-1:0", "1:-1", "1:0:0"])
async def test_a_bad_cursor_is_named(world: World, cursor: str) -> None:
    run_id = await world.started_run()
    if not cursor:
        assert (await world.logs.read(await world.stored(run_id), after=cursor)).lines == []
        return
    with pytest.raises(ValueError, match="position:line"):
        await world.logs.read(await world.stored(run_id), after=cursor)
