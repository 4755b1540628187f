"""One vocabulary inside, those of other systems as aliases at the edges: the words for a run's status.

    said("mlflow", Status.QUEUED)              # "SCHEDULED"
    meant("mlflow", "SCHEDULED")               # {queued, starting}

A foreign word may stand for several of our statuses, and not every system tells apart what we do. A deleted run is
`deleted` everywhere. Source: the documentation of each system on the states of its runs.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from events.errors import LedgerError
from events.types import Status

S = Status

OURS: Final = "tachograph"

_ORDER: Final = (
    S.QUEUED, S.STARTING, S.RUNNING, S.STOPPING, S.IDLE, S.COMPLETED, S.FAILED, S.KILLED, S.CRASHED
)  # fmt: skip
_WORDS: Final = {
    OURS: " ".join(_ORDER),
    "datature": "Queued Starting Running Running Running Completed Failed Killed Failed",
    "vessl": "Pending Initializing Running Stopping Idle Completed Failed Terminated Failed",
    "finetuner": "CREATED CREATED STARTED STARTED STARTED FINISHED FAILED FAILED FAILED",
    "runicorn": "running running running running running finished failed interrupted failed",
    "wandb": "pending pending running running running finished failed killed crashed",
    "mlflow": "SCHEDULED SCHEDULED RUNNING RUNNING RUNNING FINISHED FAILED KILLED FAILED",
}

VOCABULARIES: Final[Mapping[str, Mapping[Status, str]]] = MappingProxyType(
    {
        name: MappingProxyType({**dict(zip(_ORDER, words.split(), strict=True)), S.DELETED: S.DELETED.value})
        for name, words in _WORDS.items()
    }
)
"""By system, the word for each status."""


class UnknownWord(LedgerError):
    """A vocabulary that we do not speak, or a word that it does not have; `parameter` is where it was given."""

    def __init__(self, detail: str, *, parameter: str) -> None:
        super().__init__(detail)
        self.parameter = parameter


def vocabulary(name: str | None) -> Mapping[Status, str]:
    """Return the words of a system, or ours. Raises `UnknownWord`."""
    words = VOCABULARIES.get(OURS if name is None else name.lower())
    if words is None:
        raise UnknownWord(f"there is no vocabulary {name!r}; there are {', '.join(VOCABULARIES)}", parameter="as")
    return words


def said(name: str | None, status: Status) -> str:
    """Return a system's word for a status. Raises `UnknownWord`."""
    return vocabulary(name)[status]


def meant(name: str | None, word: str) -> frozenset[Status]:
    """Return every status that a system's word stands for, however it is capitalised. Raises `UnknownWord`."""
    words = vocabulary(name)
    found = frozenset(status for status, ours in words.items() if ours.casefold() == word.casefold())
    if found:
        return found
    known = ", ".join(dict.fromkeys(words.values()))
    elsewhere = [
        other for other, theirs in VOCABULARIES.items() if word.casefold() in map(str.casefold, theirs.values())
    ]
    hint = f"; {word!r} is a word of {', '.join(elsewhere)}: say which with `as`" if elsewhere else ""
    raise UnknownWord(
        f"{word!r} is no status of {OURS if name is None else name.lower()}, which has {known}{hint}",
        parameter="status",
    )
