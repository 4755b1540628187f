"""What a caller must be to use a route: declared beside its path, checked in one place (`auth.authenticated`).

    @get("/projects/{project:str}/runs", needs=READ)

Which projects a caller sees is asked where they are looked up (`context.Service`); what is of none but of the whole
organisation is closed to keys that are confined to projects. Source: docs/decisions/0042-access.md.
"""

from typing import Any, Final

import msgspec

from events.errors import LedgerError
from events.types import Role

PROGRAM: Final = "program"
"""What a run token is for: the program of one attempt of one run."""


class Need(msgspec.Struct, frozen=True):
    """Who may use a route; `whole` is what only keys for all of an organisation may."""

    roles: frozenset[str]
    whole: bool = False


class Forbidden(LedgerError):
    """The caller is known, and may not do this: says which role it has, and which would do."""

    def __init__(self, detail: str, *, role: str | None = None, needs: Need | None = None) -> None:
        super().__init__(detail)
        self.role = role
        self.needs = [] if needs is None else in_order(needs.roles)


def in_order(roles: frozenset[str]) -> list[str]:
    """Return roles in the order in which they are told."""
    return [one for one in (*Role, PROGRAM) if one in roles]


def needed(handler: Any) -> Need | None:
    """Return what a route's handler was declared with. Raises `KeyError` where that was forgotten."""
    need: Need | None = handler.opt["needs"]
    return need


_WRITERS: Final = frozenset({Role.MEMBER, Role.ADMIN})
_READERS: Final = _WRITERS | {Role.VIEWER}

NOTHING: Final = None
"""Open to everybody, without a credential."""
IDENTITY: Final = Need(frozenset({*Role, PROGRAM}))
"""Open to whoever is known."""
READ: Final = Need(_READERS)
READ_ALL: Final = Need(_READERS, whole=True)
WRITE: Final = Need(_WRITERS)
WRITE_ALL: Final = Need(_WRITERS, whole=True)
ADMINISTER: Final = Need(frozenset({Role.ADMIN}))
WORK: Final = Need(frozenset({Role.WORKER, Role.ADMIN}))
"""Claims and reports of GPU workers."""
SEE_WORKERS: Final = Need(_READERS | {Role.WORKER}, whole=True)
READ_OWN: Final = Need(_READERS | {PROGRAM})
"""What a program may know of its own run."""
LOG: Final = Need(_WRITERS | {PROGRAM})
"""What a program records in its own run."""
READ_FILES: Final = Need(_READERS | {Role.WORKER})
READ_RUN: Final = Need(_READERS | {Role.WORKER, PROGRAM})
"""A run and its files: its program and its worker look there."""
RECORD: Final = Need(_WRITERS | {Role.WORKER, PROGRAM})
"""What a run's worker records too: lines, figures of the machine, files."""
