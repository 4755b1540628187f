"""The parameters of a sweep's next trial: from the grid, drawn at random, or proposed from what the others came to.

Optuna's sampler is given the whole history each time, so that nothing of a search lives in a process.
"""

from collections.abc import Sequence
from random import Random
from typing import Any, assert_never

import msgspec

from events.search_space import (
    Categorical,
    IntUniform,
    LogUniform,
    Parameter,
    Space,
    Uniform,
    grid_point,
    random_point,
)
from events.sweep import Goal, Method, Sweep


class Result(msgspec.Struct, frozen=True):
    """What a trial came to: its value, or None of one that has `ended` without."""

    parameters: dict[str, Any]
    ended: bool
    value: float | None = None


def proposed(sweep: Sweep, number: int, history: Sequence[Result]) -> dict[str, Any]:
    """Return the parameters of trial `number`; the same history leads to the same ones."""
    match sweep.method:
        case Method.GRID:
            return grid_point(sweep.parameters, number)
        case Method.RANDOM:
            return random_point(sweep.parameters, sweep.seed, number)
        case Method.BAYES:
            goal = sweep.metric.goal if sweep.metric else Goal.MIN
            chance = Random(f"{sweep.seed}:{number}")  # noqa: S311 (is to be repeated)
            return _by_history(sweep.parameters, goal, chance.getrandbits(32), history)
        case _:
            assert_never(sweep.method)


def _by_history(space: Space, goal: Goal, seed: int, history: Sequence[Result]) -> dict[str, Any]:
    """Return what Optuna's tree-structured Parzen estimator asks for next; open trials count as poor ones."""
    import optuna  # noqa: PLC0415 (almost a second, which only such a sweep needs)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    states = optuna.trial.TrialState
    distributions = {name: _distribution(parameter) for name, parameter in space.items()}
    study = optuna.create_study(
        direction="minimize" if goal is Goal.MIN else "maximize",
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
    )
    for result in history:
        state = states.COMPLETE if result.value is not None else states.FAIL if result.ended else states.RUNNING
        parameters = {name: _inner(space[name], result.parameters[name]) for name in space}
        study.add_trial(
            optuna.trial.create_trial(state=state, params=parameters, distributions=distributions, value=result.value)
        )
    asked = study.ask(distributions).params
    return {name: _outer(parameter, asked[name]) for name, parameter in space.items()}


def _distribution(parameter: Parameter) -> Any:
    """Return the parameter as Optuna knows it; values that may be anything are known by their index."""
    from optuna.distributions import (  # noqa: PLC0415
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    match parameter:
        case Categorical():
            return CategoricalDistribution(tuple(range(len(parameter.values))))
        case IntUniform():
            return IntDistribution(parameter.min, parameter.max)
        case Uniform():
            return FloatDistribution(parameter.min, parameter.max)
        case LogUniform():
            return FloatDistribution(parameter.min, parameter.max, log=True)
        case _:
            assert_never(parameter)


def _inner(parameter: Parameter, value: Any) -> Any:
    return parameter.values.index(value) if isinstance(parameter, Categorical) else value


def _outer(parameter: Parameter, value: Any) -> Any:
    return parameter.values[value] if isinstance(parameter, Categorical) else value
