"""From `log` to the service while the network misbehaves: once each, in order, and never in the way."""

import logging
import math
import threading
from pathlib import Path

import pytest

import tachograph
from tachograph import _batcher, _sender
from tachograph._http import Transport
from tachograph._recorder import Attempt, Recorder


@pytest.fixture(autouse=True)
def brisk(monkeypatch):
    """Retry soon: the waits themselves are not what is tested."""
    monkeypatch.setattr(_sender, "backoff", lambda attempt, error=None: 0.02)
    monkeypatch.setattr(_sender, "HURRY_SECONDS", 0.02)
    monkeypatch.setattr(_batcher, "QUICK_SECONDS", 0.005)
    monkeypatch.setattr(_batcher, "STEADY_SECONDS", 0.02)


def recorder_to(url: str, **bounds: int) -> Recorder:
    recorder = Recorder(Transport(url, "tg_x"), Attempt("run-1", 1, "sdk"), **bounds)
    recorder.start()
    return recorder


def fill(recorder: Recorder, rows: int, until, peer=None, batches: int = 5) -> dict[str, list[tuple[int, float]]]:
    """Log in several batches."""
    expected = []
    for number in range(rows):
        recorder.buffer.add({"x": float(number)}, number, None)
        expected.append((number, float(number)))
        if number % (rows // batches) == 0:
            until(lambda: not recorder.buffer._points)
    return {"x": expected}


def test_batches_arrive_once_in_order_and_the_end_says_how_many(peer, until):
    recorder = recorder_to(peer.url)
    expected = fill(recorder, 100, until)
    recorder.buffer.add_lines("log", ["hello"])
    delivery = recorder.close({"epoch": 1, "status": "completed"}, 120)
    assert peer.points() == expected
    assert delivery == (True, 100, 1, 0, 0, 0, 0, None)
    sequence = [seen.body["seq"] for seen in peer.seen if seen.path.endswith(("/metrics", "/logs"))]
    assert sequence == list(range(1, len(sequence) + 1))
    (finish,) = peer.to("/finish")
    assert finish.body == {"epoch": 1, "status": "completed", "last_seq": {"sdk": sequence[-1]}}
    assert peer.seen[-1] is finish
    keys = [seen.headers["idempotency-key"] for seen in peer.seen]
    assert len(set(keys)) == len(keys)


def test_failures_in_passing_are_repeated_with_the_same_bytes(peer, until):
    answers = iter([(500, {}), None, (503, {}), (429, {}), None, (502, {})] * 5)
    peer.answer = lambda seen: next(answers, (200, {}))
    recorder = recorder_to(peer.url)
    expected = fill(recorder, 50, until)
    delivery = recorder.close({"epoch": 1, "status": "completed"}, 120)
    assert delivery.complete
    assert peer.points() == expected
    assert len(peer.to("/metrics")) > delivery.points_delivered / 10 + 10
    by_key = {}
    for seen in peer.seen:
        assert by_key.setdefault(seen.headers["idempotency-key"], seen.content) == seen.content


def test_an_answer_that_got_lost_is_asked_for_again(peer, until):
    """The peer has stored the batch, and the connection breaks before it says so."""
    lost = []

    def answer(seen):
        if seen.path.endswith("/metrics") and seen.content not in lost:
            lost.append(seen.content)
            return None
        return (200, {})

    peer.answer = answer
    recorder = recorder_to(peer.url)
    expected = fill(recorder, 20, until)
    assert recorder.close(None, 120).complete
    assert peer.points() == expected


def test_logging_does_not_wait_for_a_service_that_hangs(peer):
    release, answered = threading.Event(), threading.Event()

    def answer(seen):
        release.wait(120)
        answered.set()
        return (200, {})

    peer.answer = answer
    recorder = recorder_to(peer.url)
    for number in range(50_000):
        recorder.buffer.add({"x": float(number)}, number, None)
    assert not answered.is_set()
    release.set()
    assert recorder.close(None, 120).complete
    assert peer.points() == {"x": [(number, float(number)) for number in range(50_000)]}


def test_an_outage_is_said_once_and_outlasted_on_disk(peer, peer_at, until, caplog, tmp_path):
    port = peer.port
    peer.close()
    recorder = recorder_to(f"http://127.0.0.1:{port}", outbox_bytes=2_000)
    expected = fill(recorder, 400, until, batches=40)
    until(lambda: list((tmp_path / "home" / "spool").glob("*.spool")))
    assert sum("cannot deliver now" in record.message for record in caplog.records) == 1
    back = peer_at(port)
    delivery = recorder.close({"epoch": 1, "status": "completed"}, 120)
    assert delivery.complete
    assert back.points() == expected
    assert "answers again" in caplog.text
    assert not list((tmp_path / "home" / "spool").glob("*.spool"))


def test_what_is_not_delivered_in_time_is_kept_and_can_be_synced(peer, peer_at, until, caplog, monkeypatch):
    port = peer.port
    peer.close()
    url = f"http://127.0.0.1:{port}"
    recorder = recorder_to(url, outbox_bytes=2_000)
    expected = fill(recorder, 100, until, batches=20)
    delivery = recorder.close({"epoch": 1, "status": "failed"}, 4)
    assert not delivery.complete
    assert delivery.points_left == 100
    assert str(delivery.kept) in caplog.text
    back = peer_at(port)
    with pytest.raises(tachograph.NotConfigured):
        tachograph.sync()
    monkeypatch.setenv("TACHOGRAPH_API_KEY", "tg_x")
    assert tachograph.sync(url="http://127.0.0.1:1").skipped == [delivery.kept]
    synced = tachograph.sync(url=url)
    assert (synced.files, synced.refused, synced.skipped) == (1, 0, [])
    assert back.points() == expected
    (finish,) = back.to("/finish")
    assert finish.body["status"] == "failed"
    assert back.seen[-1] is finish
    assert not delivery.kept.exists()


def test_a_file_in_use_is_left_alone(peer, until, monkeypatch, tmp_path):
    monkeypatch.setenv("TACHOGRAPH_API_KEY", "tg_x")
    release = threading.Event()
    peer.answer = lambda seen: (200, {}) if release.wait(30) else None
    recorder = recorder_to(peer.url, outbox_bytes=0)
    recorder.buffer.add({"x": 1.0}, 1, None)
    until(lambda: peer.seen)
    recorder.buffer.add({"x": 2.0}, 2, None)
    spool = tmp_path / "home" / "spool"
    until(lambda: list(spool.glob("*.spool")))
    assert len(tachograph.sync(url=peer.url).skipped) == 1
    release.set()
    assert recorder.close(None, 120).complete


@pytest.mark.parametrize("status", [409, 410, 404])
def test_a_run_that_takes_no_more_is_left_in_peace(peer, until, caplog, status):
    peer.answer = lambda seen: (status, {"title": "no", "status": status, "detail": "it has ended"})
    recorder = recorder_to(peer.url)
    recorder.buffer.add({"x": 1.0}, 1, None)
    until(lambda: recorder.halted)
    for number in range(100):
        recorder.buffer.add({"x": 1.0}, number, None)
    delivery = recorder.close({"epoch": 1, "status": "completed"}, 5)
    assert len(peer.seen) == 1
    assert (delivery.complete, delivery.points_dropped, delivery.points_left) == (False, 101, 0)
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 2
    assert "it has ended" in warnings[0]
    assert "101 points" in warnings[1]


def test_a_refused_key_stops_the_sending_and_keeps_the_data(peer, until, caplog):
    peer.answer = lambda seen: (401, {"title": "Unauthorized", "status": 401})
    recorder = recorder_to(peer.url)
    recorder.buffer.add({"x": 1.0}, 1, None)
    until(lambda: recorder.halted)
    recorder.buffer.add({"x": 2.0}, 2, None)
    delivery = recorder.close({"epoch": 1, "status": "completed"}, 5)
    assert len(peer.seen) == 1
    assert delivery.points_left == 2
    peer.answer = lambda seen: (200, {})
    synced = tachograph.sync(url=peer.url, api_key="tg_good")
    assert synced.delivered == 3
    assert sum(map(len, peer.points().values())) == 2
    assert peer.to("/finish")[-1].headers["authorization"] == "Bearer tg_good"


def test_one_refused_batch_does_not_stop_the_others(peer, until, caplog):
    def answer(seen):
        refused = seen.path.endswith("/metrics") and "bad" in seen.body["series"]
        return (422, {"title": "Unprocessable", "status": 422, "detail": "bad"}) if refused else (200, {})

    peer.answer = answer
    recorder = recorder_to(peer.url)
    for name in ("a", "bad", "b"):
        recorder.buffer.add({name: 1.0}, 1, None)
        until(lambda: not recorder.buffer._points)
    delivery = recorder.close({"epoch": 1, "status": "completed"}, 120)
    assert (delivery.complete, delivery.points_delivered, delivery.points_dropped) == (False, 2, 1)
    assert sum("refused" in record.message for record in caplog.records) == 1


def test_dropped_points_leave_no_gap_in_the_numbers_and_are_said(peer, until, caplog):
    release = threading.Event()
    peer.answer = lambda seen: (200, {}) if release.wait(30) else None
    recorder = recorder_to(peer.url, outbox_bytes=1_000, spool_bytes=2_000)
    fill(recorder, 600, until, batches=60)
    release.set()
    delivery = recorder.close({"epoch": 1, "status": "completed"}, 120)
    assert delivery.points_delivered + delivery.points_dropped == 600
    assert delivery.points_dropped > 0
    assert not delivery.complete
    assert "data is being dropped" in caplog.text
    assert f"{delivery.points_dropped} points" in caplog.text
    sequence = [seen.body["seq"] for seen in peer.to("/metrics")]
    assert sequence == list(range(1, len(sequence) + 1))
    assert peer.to("/finish")[0].body["last_seq"] == {"sdk": len(sequence)}


def test_changes_keep_their_place_and_the_best_value_is_summed_up(peer, until):
    recorder = recorder_to(peer.url)
    recorder.buffer.set_primary_metric("acc", "max")
    recorder.buffer.change("summary", {"note": "x"})
    for step, value in enumerate([0.5, math.nan, 0.9, 0.7]):
        recorder.buffer.add({"acc": value, "loss": 1.0}, step, None)
    recorder.buffer.set_progress({"done": 3.0, "total": 4.0})
    recorder.close({"epoch": 1, "status": "completed"}, 120)
    assert peer.to("/primary-metric")[0].body == {"name": "acc", "mode": "max"}
    assert peer.to("/progress")[-1].body == {"epoch": 1, "done": 3.0, "total": 4.0}
    patches = [seen.body for seen in peer.seen if seen.method == "PATCH"]
    assert patches == [
        {"summary": {"note": "x"}},
        {
            "summary": {
                "best_metric_name": "acc",
                "best_metric_mode": "max",
                "best_metric_value": 0.9,
                "best_metric_step": 2,
            }
        },
    ]


def test_the_pace_is_quick_at_first_and_steady_for_a_busy_program(monkeypatch):
    monkeypatch.undo()
    pace = _batcher.Pace()
    now, waits = 0.0, []
    for _ in range(100):
        waits.append(pace.seconds(now))
        now += waits[-1]
    assert waits[:10] == [_batcher.QUICK_SECONDS] * 10
    assert waits[-30:] == pytest.approx([_batcher.STEADY_SECONDS] * 30)
    assert pace.seconds(now + 60) == _batcher.QUICK_SECONDS


def test_the_spool_is_made_where_the_home_is(monkeypatch, tmp_path):
    from tachograph import _settings

    assert _settings.spool_directory() == tmp_path / "home" / "spool"
    monkeypatch.delenv("TACHOGRAPH_HOME")
    monkeypatch.chdir(tmp_path)
    assert not _settings.spool_directory().is_relative_to(tmp_path / ".tachograph")
    (tmp_path / ".tachograph").mkdir()
    assert _settings.spool_directory() == Path(tmp_path / ".tachograph" / "spool")
