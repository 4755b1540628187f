"""A plain HTTP client of the service: one connection that stays open, and what a tracked run needs of it."""

import json
from typing import Any
from urllib.parse import urlsplit

from bench.http import Connection


class RefusedError(Exception):
    """The service answered with something other than success; the message is what it said."""


class Client:
    """One connection."""

    def __init__(self, url: str, api_key: str) -> None:
        address = urlsplit(url)
        self._connection = Connection(
            address.hostname or "", address.port or 80, {"Authorization": f"Bearer {api_key}"}
        )

    def call(self, method: str, path: str, body: bytes = b"", media_type: str = "application/json") -> bytes:
        """Return the body of the answer. Raises `RefusedError`."""
        status, said = self._connection.exchange(method, f"/api/v1{path}", body, media_type)
        if status >= 300:
            raise RefusedError(f"{method} {path}: {status} {said[:500].decode(errors='replace')}")
        return said

    def ask(self, method: str, path: str, document: Any = None) -> Any:
        """Send and receive JSON."""
        return json.loads(self.call(method, path, b"" if document is None else json.dumps(document).encode()))

    def project(self, name: str) -> str:
        """Create a project and return its id."""
        return str(self.ask("POST", "/projects", {"name": name})["id"])

    def started_run(self, project: str) -> str:
        """Create and start a tracked run of epoch 1, and return its id."""
        run_id = str(self.ask("POST", f"/projects/{project}/runs", {"mode": "tracked"})["id"])
        self.ask("POST", f"/runs/{run_id}/start", {})
        return run_id

    def finish(self, run_id: str) -> None:
        """End a run of epoch 1."""
        self.ask("POST", f"/runs/{run_id}/finish", {"epoch": 1, "status": "completed"})

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
