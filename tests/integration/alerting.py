"""Rules and webhooks in a world of a test's own, and who is told."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import UUID

from events.alerts import (
    AlertFired,
    AlertRuleSet,
    Condition,
    WebhookSet,
)
from events.ids import uuid7
from projections import subscriptions
from projections.execute import asked_by, record
from tests.integration.telemetry import World
from workers.alerter import Alerter


class Receiver:
    """An HTTP server that keeps what it is sent, and answers as it is told."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.hangs = threading.Event()
        self.goes_on = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append((dict(self.headers), body))
                if receiver.hangs.is_set():
                    receiver.goes_on.wait()
                self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
                self.send_header("Location", receiver.url)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing is said."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook?a=1"

    @contextmanager
    def serving(self) -> Iterator["Receiver"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self.goes_on.set()
            self._server.shutdown()
            thread.join()
            self._server.server_close()


class Alerting:
    """A world whose organisation has a ledger, with rules and webhooks."""

    def __init__(self, world: World, organisation: UUID) -> None:
        self.world = world
        self.organisation = organisation

    async def subscribe(self, event: AlertRuleSet | WebhookSet, again: UUID | None = None) -> UUID:
        identity, version = again or uuid7(), 0 if again is None else 1
        await record(
            self.world.ledger,
            ledger_id=self.organisation,
            stream=identity,
            expected_version=version,
            events=[event],
            inline=subscriptions.row(identity, event, version=version + 1),
            request=asked_by("key:test"),
        )
        return identity

    async def rule(self, condition: Condition, **scope: UUID) -> UUID:
        return await self.subscribe(AlertRuleSet(project=self.world.ledger_id, name="r", condition=condition, **scope))

    async def hook(self, url: str, *types: str) -> UUID:
        return await self.subscribe(WebhookSet(project=self.world.ledger_id, url=url, types=types))

    async def fired(self) -> list[AlertFired]:
        return [one.event() for one in await self.world.ledger.read(self.organisation, types=["alert.fired"])]

    async def nans(self, run_id: UUID, *values: float) -> None:
        await self.world.metrics(run_id, {"loss": (range(len(values)), values)})


async def drain(alerter: Alerter) -> None:
    while await alerter.step() + await alerter.delivered():
        pass
