"""The runs of a sweep: each trial's id, name and parameters, and how these reach the command. Pure."""

import re
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec.structs import replace

from events.ids import derived
from events.run_events import RunCreated
from events.types import SweepTrial

ARGUMENTS: Final = "${args}"
_NAMED: Final = re.compile(r"\$\{([^}]+)\}")


def trial_id(sweep_id: UUID, number: int) -> UUID:
    """Return the id of a sweep's trial: always the same, so that none is made twice."""
    return derived(sweep_id, "trial", number)


def trial(base: RunCreated, sweep_id: UUID, number: int, parameters: Mapping[str, Any]) -> RunCreated:
    """Return a workflow's run as a trial: the parameters go into its configuration, and its commands where they ask.

    An argument `${args}` becomes `--name=value` for each parameter, `${name}` within an argument that one's value.
    """
    given = dict(parameters)
    return replace(
        base,
        config={**base.config, **given},
        command=_filled(base.command, given),
        commands=tuple(replace(one, argv=_filled(one.argv, given)) for one in base.commands),
        trial=SweepTrial(sweep=sweep_id, number=number, parameters=given),
    )


def _filled(argv: tuple[str, ...], parameters: Mapping[str, Any]) -> tuple[str, ...]:
    filled: list[str] = []
    for argument in argv:
        if argument == ARGUMENTS:
            filled += [f"--{name}={_text(value)}" for name, value in parameters.items()]
        else:
            filled.append(_NAMED.sub(lambda found: _value(found, parameters), argument))
    return tuple(filled)


def _value(found: re.Match[str], parameters: Mapping[str, Any]) -> str:
    """Return what stands for a name in braces; what is no parameter is left to the program."""
    return _text(parameters[found[1]]) if found[1] in parameters else found[0]


def _text(value: Any) -> str:
    """Return a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
