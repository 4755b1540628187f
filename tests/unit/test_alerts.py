"""Conditions of alert rules: when an episode begins, and that it fires once."""

import contextlib
import hmac
import math
import socket
import threading
import time

import pytest

from events.alerts import Better, MetricBeyond, MetricCondition, MetricIsNan, NoImprovement, Side, Watch, watch
from workers import webhooks
from workers.webhooks import PrivateAddress, resolve, signature

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("condition", "values", "fires_at"),
    [
        (MetricIsNan(metric="m"), [1.0, NAN, NAN, 2.0, NAN, INF], [1, 4]),
        (MetricBeyond(metric="m", side=Side.ABOVE, value=1.0), [0.5, 1.0, 1.1, INF, NAN, 2.0, 0.0], [2, 5]),
        (MetricBeyond(metric="m", side=Side.BELOW, value=0.0), [0.0, -1.0, -2.0, 0.0, -INF], [1, 4]),
        (NoImprovement(metric="m", mode=Better.MIN, steps=3), [5, 4, 4, 4, 4, 4, 3, 3, 3, 3], [4, 9]),
        (NoImprovement(metric="m", mode=Better.MAX, steps=2), [1, NAN, NAN, NAN, 2, 3, 4], [2]),
        (NoImprovement(metric="m", mode=Better.MAX, steps=1), [NAN, NAN, NAN], []),
        (NoImprovement(metric="m", mode=Better.MAX, seconds=2.5), [1, 1, 1, 1, 1, 2, 2, 2, 2], [3, 8]),
    ],
)
def test_a_rule_fires_once_an_episode(condition: MetricCondition, values: list[float], fires_at: list[int]) -> None:
    state, fired = Watch(), []
    for step, value in enumerate(values):
        state, fires = watch(condition, state, step, float(value), step * 1_000_000)
        if fires:
            fired.append(step)
    assert fired == fires_at


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1",
        "fd00::1",
        "::ffff:10.0.0.1",
        "2002:0a00:0001::1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::1",
        "::127.0.0.1",
        "fec0::1",
        "ff0e::1",
        "2130706433",
    ],
)
def test_addresses_of_our_own_networks_are_refused(host: str) -> None:
    with pytest.raises(PrivateAddress, match="not a public address"):
        resolve(host, 80, allow_private=False)


def test_public_addresses_are_taken_and_private_ones_where_that_is_wanted() -> None:
    assert resolve("8.8.8.8", 443, allow_private=False) == ("8.8.8.8", 443)
    assert resolve("127.0.0.1", 80, allow_private=True) == ("127.0.0.1", 80)


def test_an_address_that_answers_drop_by_drop_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "TOTAL_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while True:
                    connection.sendall(b"X: y\r\n")
                    time.sleep(0.02)

        dripping = threading.Thread(target=drip)
        dripping.start()
        answer = webhooks.post(f"http://127.0.0.1:{server.getsockname()[1]}/", b"{}", b"secret", {}, allow_private=True)
        dripping.join()
    assert not answer.delivered
    assert answer.status is None


def test_a_signature_covers_time_and_body() -> None:
    assert signature(b"key", b"{}", 1_700_000_000) == (
        "t=1700000000,v1=" + hmac.digest(b"key", b"1700000000.{}", "sha256").hex()
    )
    assert signature(b"key", b"{}", 1) != signature(b"key", b"{}", 2)
