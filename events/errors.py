"""What the ledger can refuse, and what a caller may do about it.

LedgerError
├── Rejected            the state does not allow it: tell the user, do not retry
│   ├── NotFound        no such stream
│   ├── Fenced          an older attempt spoke: it must stop
│   ├── Erased          the payload was deleted: gone for good
│   └── QuotaReached    as much is in use as may be: later
├── VersionConflict     somebody was faster: read, decide again, retry
├── IdReused            the same event id or telemetry key with another request
├── TooLarge            a bound was passed; names the limit
├── Busy                the queue to the record is full: retry later
├── Unavailable         the record could not be reached: outcome unknown, repeat the same request
└── CorruptHistory      the stored history is impossible: page someone
"""

from collections.abc import Sequence


class LedgerError(Exception):
    """Anything that the ledger refuses."""


class Rejected(LedgerError):
    """The current state does not allow the request.

    `state` is what it is, `asked` what was wanted, `allowed` what is possible instead.
    """

    def __init__(self, detail: str, *, state: str = "", asked: str = "", allowed: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.state = state
        self.asked = asked
        self.allowed = tuple(allowed)


class NotFound(Rejected):
    """There is no such stream in this ledger."""


class Fenced(Rejected):
    """The request carries an epoch that a newer attempt has superseded."""


class Erased(Rejected):
    """The stream was deleted and its payloads are gone."""


class QuotaReached(Rejected):
    """As much is in use as may be; `scope` whose limit it is, `kind` of what (None: active runs)."""

    def __init__(self, scope: str, kind: str | None, bound: int, in_use: int) -> None:
        super().__init__(
            f"the {scope} allows {bound} {f'{kind} accelerators' if kind else 'active runs'}, and {in_use} are in use",
            state="queued",
            asked="claim",
            allowed=("monitor", "kill"),
        )
        self.scope, self.kind, self.bound, self.in_use = scope, kind, bound, in_use


class CreditsExhausted(Rejected):
    """The organisation has consumed all that it was granted."""

    def __init__(self, balance_micro: int) -> None:
        super().__init__(
            f"the organisation's balance is {balance_micro} micro-credits; runs wait until more is granted",
            state="queued",
            asked="claim",
            allowed=("monitor", "kill"),
        )
        self.balance_micro = balance_micro


class VersionConflict(LedgerError):
    """Another writer was faster; decide again on the newer state and retry."""


class IdReused(LedgerError):
    """An event id or telemetry key came again with a different request."""


class TooLarge(LedgerError):
    """A bound was passed; `limit` is the bound, in the unit that `detail` names; `path` the field to blame."""

    def __init__(self, detail: str, *, limit: int, path: str | None = None) -> None:
        super().__init__(detail)
        self.limit = limit
        self.path = path


class Busy(LedgerError):
    """More is waiting for the record than its bound allows; retry after `retry_after_seconds`."""

    retry_after_seconds = 1.0


class Unavailable(LedgerError):
    """The record did not answer; whether the append happened is unknown until it is repeated."""


class CorruptHistory(LedgerError):
    """A stored history contains something that no code of ours would have written."""
