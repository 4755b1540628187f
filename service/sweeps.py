"""Sweeps as the API takes and shows them: the search that a body describes, with its bounds, checked and whole."""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from events.search_space import Categorical, IntUniform, LogUniform, Parameter, Uniform, grid_size
from events.sweep import Goal, Method, Objective, Sweep, SweepCreated, actions
from events.types import Value
from projections.metrics import plain
from projections.sweeps import StoredSweep, Tried
from projections.workflows import StoredWorkflow
from service.patterns import LINE, PARAMETER
from service.problems import Invalid
from service.recipes import Body

MAX_RUNS: Final = 10_000
MAX_BAYES_RUNS: Final = 1_000
"""Each proposal reads what all trials before it came to."""
MAX_CONCURRENCY: Final = 1_000
MAX_INTEGER: Final = 1 << 53

SweepName = Annotated[str, Meta(max_length=250, pattern=LINE)]
ParameterName = Annotated[str, Meta(max_length=128, pattern=PARAMETER)]
"""It becomes `--name=value`."""
Number = int | float


class ParameterBody(Body, frozen=True):
    """`{"value": x}`, `{"values": […]}`, or from `min` to `max`; without a distribution, by the kind of these."""

    value: Any = msgspec.UNSET
    values: Annotated[tuple[Any, ...], Meta(min_length=1, max_length=1_000)] | msgspec.UnsetType = msgspec.UNSET
    min: Number | msgspec.UnsetType = msgspec.UNSET
    max: Number | msgspec.UnsetType = msgspec.UNSET
    distribution: Literal["categorical", "uniform", "log_uniform", "int_uniform"] | msgspec.UnsetType = msgspec.UNSET


class MetricBody(Body, frozen=True):
    """The primary metric, and whether less or more of it is better."""

    name: Annotated[str, Meta(min_length=1, max_length=250)]
    goal: Goal


class NewSweep(Body, frozen=True):
    """A search over a workflow's parameters. A grid is as long as it is, unless `max_runs` ends it before."""

    workflow: str
    method: Method
    parameters: Annotated[dict[ParameterName, ParameterBody], Meta(min_length=1, max_length=100)]
    name: SweepName = ""
    metric: MetricBody | None = None
    max_runs: Annotated[int, Meta(ge=1, le=MAX_RUNS)] | None = None
    concurrency: Annotated[int, Meta(ge=1, le=MAX_CONCURRENCY)] = 1
    seed: Annotated[int, Meta(ge=0, le=MAX_INTEGER)] | None = None


def searched(data: NewSweep, workflow: StoredWorkflow, seed: int) -> SweepCreated:
    """Return the creation of a sweep; `seed` is used where none is asked for. Raises `Invalid`."""
    recipe = workflow.workflow
    if not (recipe.command or recipe.commands):
        raise Invalid("a sweep starts its runs: its workflow needs a command", path="$.workflow")
    parameters = {name: _parameter(given, f"$.parameters.{name}") for name, given in data.parameters.items()}
    if data.method is Method.BAYES and data.metric is None:
        raise Invalid("a Bayesian search needs a metric to go by", path="$.metric")
    if data.metric is not None and len(data.metric.name.encode()) > 250:
        raise Invalid("a metric's name has 1 to 250 bytes", path="$.metric.name", limit=250)
    return SweepCreated(
        name=data.name,
        workflow=workflow.workflow_id,
        workflow_version=recipe.version,
        method=data.method,
        parameters=parameters,
        metric=Objective(name=data.metric.name, goal=data.metric.goal) if data.metric else None,
        max_runs=_max_runs(data, parameters),
        concurrency=data.concurrency,
        seed=seed if data.seed is None else data.seed,
    )


def _max_runs(data: NewSweep, parameters: Mapping[str, Parameter]) -> int:
    if data.method is not Method.GRID:
        bound = MAX_BAYES_RUNS if data.method is Method.BAYES else MAX_RUNS
        if data.max_runs is None or data.max_runs > bound:
            raise Invalid(
                f"a {data.method} search makes 1 to {bound} runs: say how many", path="$.max_runs", limit=bound
            )
        return data.max_runs
    for name, parameter in parameters.items():
        if isinstance(parameter, Uniform | LogUniform):
            raise Invalid(
                "a grid needs values that can be counted: `value`, `values` or `int_uniform`",
                path=f"$.parameters.{name}",
            )
    size = grid_size(parameters) or 0
    if data.max_runs is None and size > MAX_RUNS:
        raise Invalid(
            f"the grid has {size} points; a sweep makes {MAX_RUNS} runs at most: say `max_runs` for the first of them",
            path="$.parameters",
            limit=MAX_RUNS,
        )
    return min(size, data.max_runs or size)


def _parameter(given: ParameterBody, path: str) -> Parameter:
    """Return a parameter as events hold it. Raises `Invalid`."""
    said = [name for name in ("value", "values", "min") if getattr(given, name) is not msgspec.UNSET]
    if len(said) != 1 or (given.max is msgspec.UNSET) != (given.min is msgspec.UNSET):
        raise Invalid("a parameter has a `value`, or `values`, or `min` and `max`", path=path)
    if given.min is msgspec.UNSET or given.max is msgspec.UNSET:
        if given.distribution not in (msgspec.UNSET, "categorical"):
            raise Invalid(f"{given.distribution} needs `min` and `max`", path=f"{path}.distribution")
        return _categorical(given, path)
    return _range(given, given.min, given.max, path)


def _categorical(given: ParameterBody, path: str) -> Categorical:
    if given.values is msgspec.UNSET:
        values, path = (given.value,), f"{path}.value"
    else:
        values, path = given.values, f"{path}.values"
    for index, value in enumerate(values):
        at = path if given.values is msgspec.UNSET else f"{path}[{index}]"
        if isinstance(value, float) and not math.isfinite(value):
            raise Invalid("a value is finite", path=at)
        if isinstance(value, str) and (len(value) > 1_000 or "\0" in value):
            raise Invalid("a text has 1000 characters at most, and no NUL", path=at, limit=1_000)
        if value in values[:index]:
            raise Invalid(f"{value!r} is there twice", path=at)
    return Categorical(values=values)


def _range(given: ParameterBody, low: Number, high: Number, path: str) -> Parameter:
    whole = isinstance(low, int) and isinstance(high, int)
    kind = given.distribution
    if kind is msgspec.UNSET:
        kind = "int_uniform" if whole else "uniform"
    if kind == "categorical":
        raise Invalid("categorical needs `values`", path=f"{path}.distribution")
    if not (math.isfinite(low) and math.isfinite(high) and math.isfinite(high - low)):
        raise Invalid("`min` and `max` are finite, and not too far apart", path=path)
    if low >= high:
        raise Invalid("`min` is below `max`; one value alone is `value`", path=f"{path}.min")
    if kind == "int_uniform":
        if not isinstance(low, int) or not isinstance(high, int):
            raise Invalid("int_uniform has whole numbers as `min` and `max`", path=path)
        if max(abs(low), abs(high)) > MAX_INTEGER:
            raise Invalid("whole numbers are at most 2^53", path=path, limit=MAX_INTEGER)
        return IntUniform(min=low, max=high)
    if kind == "log_uniform":
        if low <= 0:
            raise Invalid("log_uniform needs a `min` above 0: these are the values, not their logarithms", path=path)
        return LogUniform(min=float(low), max=float(high))
    return Uniform(min=float(low), max=float(high))


class TrialResource(Value, frozen=True):
    """A trial's run, and the best that it logged of the sweep's metric, at which step."""

    number: int
    run: UUID
    name: str
    status: str
    parameters: dict[str, Any]
    value: float | str | None
    step: int | None


class TrialCounts(Value, frozen=True):
    """How many trials there are, and how many of them stand where."""

    made: int
    by_status: dict[str, int]


class SweepResource(Value, frozen=True):
    """A sweep; `best` is of those trials that run or completed, None while none has logged the metric."""

    id: UUID
    project_id: UUID
    name: str
    status: str
    version: int
    workflow: UUID
    workflow_version: int
    method: Method
    parameters: dict[str, Parameter]
    metric: Objective | None
    max_runs: int
    concurrency: int
    seed: int
    created_at: datetime
    actions: tuple[str, ...]
    trials: TrialCounts
    best: TrialResource | None = None


_SHARED: Final = frozenset(Sweep.__struct_fields__) & frozenset(SweepResource.__struct_fields__)


def sweep_resource(stored: StoredSweep, counts: Mapping[str, int], best: Tried | None = None) -> SweepResource:
    """Return a sweep as the API shows it."""
    return SweepResource(
        id=stored.sweep_id,
        project_id=stored.ledger_id,
        created_at=stored.created_at,
        actions=actions(stored.sweep),
        trials=TrialCounts(made=sum(counts.values()), by_status=dict(sorted(counts.items()))),
        best=trial_resource(best) if best else None,
        **{name: getattr(stored.sweep, name) for name in _SHARED},
    )


def trial_resource(tried: Tried) -> TrialResource:
    """Return a trial as the API shows it; of a deleted run, its number is left."""
    run = tried.stored.run
    return TrialResource(
        number=tried.number,
        run=tried.stored.run_id,
        name=run.name,
        status=run.status,
        parameters=run.trial.parameters if run.trial else {},
        value=plain(tried.value),
        step=tried.step,
    )
