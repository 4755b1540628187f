"""Roles that are started while NATS is away: whoever needs it waits, and says so; the others work."""

from pathlib import Path

import httpx

from stack import Nats
from tests.api import accepted, serving, until
from tests.servers import PostgresServer


def test_what_needs_no_nats_works_before_it_is_there(
    postgres_server: PostgresServer, own_nats: Nats, servers_home: Path
) -> None:
    own_nats.kill()
    with serving(postgres_server, own_nats, servers_home, roles=("roles",)) as api:
        project = api.project()
        run = project.started()
        accepted(project.log(run, 1, {"loss": {"step": [1], "value": [0.5]}}), 202)
        until(lambda: accepted(api.client.get(f"/runs/{run['id']}/metrics"))["metrics"], "the metric is projected")

        def roles() -> dict[str, str]:
            return accepted(httpx.get(f"{api.url}/readyz"))["roles"]

        until(lambda: "failing" in roles()["relay"], "the relay says that it has no NATS")
        assert "NATS is not connected" in until(lambda: "failing" in (said := roles()["monitor"]) and said, "so others")
        assert roles()["projector"] == "ok"
        own_nats.start()
        until(lambda: set(roles().values()) == {"ok"}, "all roles work")
