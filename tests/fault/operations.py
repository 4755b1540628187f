"""What clients asked for and what they were told: every request is invoked, and then ok, failed or unknown."""

import json
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import httpx

Outcome = Literal["invoked", "ok", "fail", "unknown"]

IN_DOUBT = frozenset({429, 502, 503, 504})
"""Answers that leave open whether the request was recorded."""


class Violation(AssertionError):
    """Something that must never be so; the message says what and where."""


class Operation:
    """A request under a name of its own (a key, or a batch's seq), however often it was sent."""

    def __init__(self, client: str, what: str, request: httpx.Request) -> None:
        self.client = client
        self.what = what
        self.request = request
        self.outcome: Outcome = "invoked"
        self.status = 0
        self.content = b""

    def told(self, answer: httpx.Response | None) -> Outcome:
        """Take an answer, or that none came. What was in doubt once and is refused now stays in doubt: an earlier
        sending may be under way still. Raises `Violation` for an answer that contradicts an earlier one, and for a
        server that says that it is at fault.
        """
        if answer is not None and answer.status_code == 500:
            raise Violation(f"{self}: answered 500: {answer.text[:500]}")
        if answer is None or answer.status_code in IN_DOUBT:
            self.outcome = self.outcome if self.outcome in {"ok", "fail"} else "unknown"
        elif self.outcome == "ok":
            if (answer.status_code, answer.content) != (self.status, self.content):
                raise Violation(
                    f"{self}: was answered {self.status} {self.content[:300]!r}, "
                    f"and on repetition {answer.status_code} {answer.content[:300]!r}"
                )
        elif answer.is_success:
            self.outcome = "ok"
        elif self.outcome != "unknown":
            self.outcome = "fail"
        if answer is not None and self.outcome in {"ok", "fail"}:
            self.status, self.content = answer.status_code, answer.content
        return self.outcome

    def __str__(self) -> str:
        return f"{self.client}: {self.what} ({self.request.method} {self.request.url.path})"


class Journal:
    """All operations of all clients, also as lines of a file as they happen."""

    def __init__(self, path: Path | None = None) -> None:
        self.operations: list[Operation] = []
        self.sent = 0
        self._began = time.monotonic()
        self._file = path.open("a", encoding="utf-8") if path is not None else None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    async def send(self, http: httpx.AsyncClient, operation: Operation) -> httpx.Response | None:
        """Send an operation once and note what comes of it; returns the answer, None where none came."""
        if operation.outcome == "invoked":
            self.operations.append(operation)
        self._note(operation, "invoke")
        self.sent += 1
        try:
            answer = await http.send(operation.request)
        except httpx.TransportError:
            answer = None
        operation.told(answer)
        self._note(operation, operation.outcome, answer)
        return answer

    def of(self, outcomes: Iterable[Outcome]) -> list[Operation]:
        wanted = set(outcomes)
        return [operation for operation in self.operations if operation.outcome in wanted]

    def __str__(self) -> str:
        counted = Counter(operation.outcome for operation in self.operations)
        ends = ", ".join(f"{counted[outcome]} {outcome}" for outcome in ("ok", "fail", "unknown"))
        return f"{len(self.operations)} requests sent {self.sent} times: {ends}"

    def _note(self, operation: Operation, phase: str, answer: httpx.Response | None = None) -> None:
        if self._file is None:
            return
        line = {
            "at": round(time.monotonic() - self._began, 3),
            "phase": phase,
            "client": operation.client,
            "what": operation.what,
            "path": operation.request.url.path,
            "status": None if answer is None else answer.status_code,
        }
        print(json.dumps(line), file=self._file, flush=True)
