"""Checks what describes an imported run (name, tags, path and so on) by the bounds that the API has for it."""

import msgspec

from events.run_events import RunCreated
from service.bodies import ExternalId, Name, Tags
from service.imports.incoming import Unreadable
from service.runs.names import clean_path


class _Described(msgspec.Struct, frozen=True):
    name: Name
    external_id: ExternalId | None
    alias: Name | None
    tags: Tags


def check_described(created: RunCreated) -> None:
    """Raise `Unreadable` or `Invalid` naming the field that the API would refuse."""
    given = {name: getattr(created, name) for name in _Described.__struct_fields__}
    try:
        msgspec.convert(given, _Described)
    except msgspec.ValidationError as error:
        raise Unreadable(f"what describes it cannot be taken: {error}") from error
    clean_path(created.path)
