"""What a sweep searches: how each parameter is distributed, the grid over them, and points drawn at random. Pure."""

import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, assert_never

from events.types import Value


class Categorical(Value, frozen=True, tag="categorical", tag_field="distribution"):
    """One of the values."""

    values: tuple[Any, ...]


class Uniform(Value, frozen=True, tag="uniform", tag_field="distribution"):
    """A number between `min` and `max`, all as likely."""

    min: float
    max: float


class LogUniform(Value, frozen=True, tag="log_uniform", tag_field="distribution"):
    """A number between `min`, above 0, and `max`, whose logarithms are all as likely."""

    min: float
    max: float


class IntUniform(Value, frozen=True, tag="int_uniform", tag_field="distribution"):
    """A whole number from `min` to `max`, both included."""

    min: int
    max: int


Parameter = Categorical | Uniform | LogUniform | IntUniform
Space = Mapping[str, Parameter]


def choices(parameter: Parameter) -> Sequence[Any] | None:
    """Return all values that a parameter can have, or None where they cannot be counted."""
    match parameter:
        case Categorical():
            return parameter.values
        case IntUniform():
            return range(parameter.min, parameter.max + 1)
        case Uniform() | LogUniform():
            return None
        case _:
            assert_never(parameter)


def grid_size(space: Space) -> int | None:
    """Return how many points the grid has, or None where a parameter has no countable values."""
    size = 1
    for parameter in space.values():
        values = choices(parameter)
        if values is None:
            return None
        size *= len(values)
    return size


def grid_point(space: Space, number: int) -> dict[str, Any]:
    """Return the grid's point `number`, from 1 to `grid_size`; the last parameter changes fastest."""
    rest = number - 1
    point = {}
    for name, parameter in reversed(list(space.items())):
        values = choices(parameter)
        if values is None:
            raise ValueError(f"there is no grid over {name!r}")
        rest, index = divmod(rest, len(values))
        point[name] = values[index]
    if rest or number < 1:
        raise ValueError(f"the grid has no point {number}")
    return {name: point[name] for name in space}


def random_point(space: Space, seed: int, number: int) -> dict[str, Any]:
    """Return the point that these always lead to; a parameter's value depends on no other parameter."""
    return {
        name: _drawn(parameter, Random(f"{seed}:{number}:{name}"))  # noqa: S311 (is to be repeated)
        for name, parameter in space.items()
    }


def _drawn(parameter: Parameter, chance: Random) -> Any:
    match parameter:
        case Categorical():
            return chance.choice(parameter.values)
        case IntUniform():
            return chance.randint(parameter.min, parameter.max)
        case Uniform():
            return chance.uniform(parameter.min, parameter.max)
        case LogUniform():
            drawn = math.exp(chance.uniform(math.log(parameter.min), math.log(parameter.max)))
            return min(max(drawn, parameter.min), parameter.max)
        case _:
            assert_never(parameter)
