"""What a body may say where it said something else, or nothing: values of an enumeration, tags of a union, fields.

expected(NewAlert, "$.condition.side", "Invalid enum value 'over'")     # ["above", "below"]
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from msgspec import inspect

_STEP: Final = re.compile(r"\.([^.\[]+)|\[[^\]]*\]")
_UNKNOWN_FIELD: Final = "Object contains unknown field"
_INVALID: Final = re.compile(r"Invalid (enum )?value ")
_MISSING: Final = re.compile(r"Object missing required field `([^`]+)`")


def expected(body: Any, path: str, message: str) -> list[str]:
    """Return what is possible at a JSON path of a body of this type, as far as it can be counted; empty otherwise.

    `message` is msgspec's own.
    """
    if message.startswith(_UNKNOWN_FIELD):
        return [
            field.encode_name
            for struct in _at(body, path)
            if isinstance(struct, inspect.StructType)
            for field in struct.fields
        ]
    if missing := _MISSING.match(message):
        return _choices(body, f"{path}.{missing[1]}")
    return _choices(body, path) if _INVALID.match(message) else []


def _choices(body: Any, path: str) -> list[str]:
    """Return the values that an enumeration at a path has, or the tags of the unions whose tag stands there."""
    found = [value for one in _at(body, path) for value in _values(one)]
    parent, _, tag = path.rpartition(".")
    structs = (one for one in _at(body, parent) if isinstance(one, inspect.StructType))
    return found or [str(one.tag) for one in structs if one.tag_field == tag]


def _at(body: Any, path: str) -> Iterator[inspect.Type]:
    """Yield the types that a value at a path may be of."""
    found = list(_alternatives(inspect.type_info(body)))
    for step in _STEP.finditer(path):
        found = [inner for one in found for part in _inside(one, step[1]) for inner in _alternatives(part)]
    yield from found


def _alternatives(one: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(one, inspect.Metadata):
        yield from _alternatives(one.type)
    elif isinstance(one, inspect.UnionType):
        for part in one.types:
            yield from _alternatives(part)
    else:
        yield one


def _inside(one: inspect.Type, field: str | None) -> Iterator[inspect.Type]:
    """Yield the types of what is in a value: under a field's name, or at an index or key."""
    match one:
        case inspect.StructType(fields=fields):
            yield from (known.type for known in fields if known.encode_name == field)
        case inspect.DictType(value_type=inner):
            yield inner
        case (
            inspect.ListType(item_type=inner) | inspect.VarTupleType(item_type=inner) | inspect.SetType(item_type=inner)
        ):
            yield inner
        case _:
            pass


def _values(one: inspect.Type) -> list[str]:
    match one:
        case inspect.EnumType(cls=names):
            return [str(member.value) for member in names]
        case inspect.LiteralType(values=values):
            return [str(value) for value in values]
        case _:
            return []
