"""Where in a body msgspec refused something: its JSON path, with the keys that msgspec leaves out.

place(NewSweep, b'{"parameters": {"lr": {"min": "a"}}}', "Expected … at `$.parameters[...].min`")  # $.parameters.lr.min
"""

import re
from typing import Any, Final

import msgspec

MOST_KEYS: Final = 1_000
"""Of larger objects the key is not looked for."""

_PLACE: Final = re.compile(r" - at (`key` in )?`(\$[^`]*)`$")
_STEP: Final = re.compile(r"\.[^.\[]+|\[[^\]]*\]")
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
ANY: Final = "[...]"


def given(message: str) -> str:
    """Return the path as msgspec's message has it, `$` where it has none."""
    found = _PLACE.search(message)
    return found[2] if found else "$"


def place(body: Any, raw: bytes, message: str) -> str:
    """Return the path with its keys: an entry is meant that is refused with this message if it stands alone.

    `raw` is the JSON that was to become a `body`.
    """
    found = _PLACE.search(message)
    steps = _STEP.findall(found[2]) + [ANY] * bool(found[1]) if found else []
    if found is None or ANY not in steps:
        return given(message)
    try:
        document = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return found[2]
    path, inner = "$", document
    for step in steps:
        if step == ANY:
            key = _blamed(body, document, inner, message)
            if key is None:
                return found[2]
            path += f".{key}" if _PLAIN.fullmatch(key) else f"[{key!r}]"
            inner = inner[key]
        else:
            path += step
            inner = inner[step[1:]] if step[0] == "." else inner[int(step[1:-1])]
    return path


def _blamed(body: Any, document: Any, entries: Any, message: str) -> str | None:
    """Return the key whose entry leads to the message, and leave no other in the object."""
    if not isinstance(entries, dict) or len(entries) > MOST_KEYS:
        return None
    every = dict(entries)
    for key, value in every.items():
        entries.clear()
        entries[key] = value
        try:
            msgspec.convert(document, body)
        except msgspec.ValidationError as error:
            if str(error) == message:
                return str(key)
    entries.update(every)
    return None
