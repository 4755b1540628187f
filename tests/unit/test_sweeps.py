"""Sweeps: what may follow what, which points are tried, and how they come to a command."""

import math
from typing import Any
from uuid import UUID

import msgspec
import pytest

from events.errors import CorruptHistory, Rejected
from events.run_events import RunCreated
from events.search_space import (
    Categorical,
    IntUniform,
    LogUniform,
    Space,
    Uniform,
    grid_point,
    grid_size,
    random_point,
)
from events.sweep import (
    ACTIONS,
    TRANSITIONS,
    Goal,
    Method,
    Objective,
    Sweep,
    SweepCreated,
    SweepFinished,
    SweepStatus,
    actions,
    decide,
    evolve,
)
from events.trials import trial, trial_id
from events.types import Mode, StartCommand, SweepTrial
from events.workflow import Workflow
from projections.workflows import StoredWorkflow
from service.problems import Invalid
from service.sweeps import MAX_BAYES_RUNS, MAX_RUNS, NewSweep, searched
from workers.proposals import Result, proposed

S = SweepStatus
ID = UUID("01890000-0000-7000-8000-000000000001")
GRID: Space = {"a": Categorical(values=(1, "x", None)), "b": IntUniform(min=-1, max=1), "c": Categorical(values=(0.5,))}
WIDE: Space = {
    "lr": LogUniform(min=1e-5, max=1.0),
    "drop": Uniform(min=0.0, max=0.5),
    "n": IntUniform(min=1, max=4),
    "kind": Categorical(values=("a", [1, 2])),
}


@pytest.mark.parametrize(
    ("status", "allowed"),
    [
        (S.ABSENT, ()),
        (S.RUNNING, ("pause", "stop", "cancel")),
        (S.PAUSED, ("resume", "stop", "cancel")),
        (S.STOPPED, ("cancel",)),
        (S.CANCELLED, ()),
        (S.FINISHED, ()),
    ],
)
def test_a_sweep_may_be_asked_what_its_state_allows(status: SweepStatus, allowed: tuple[str, ...]) -> None:
    sweep = Sweep(status=status, version=1)
    assert actions(sweep) == allowed
    same = {"pause": S.PAUSED, "resume": S.RUNNING, "stop": S.STOPPED, "cancel": S.CANCELLED}
    for asked, event in ACTIONS.items():
        if asked in allowed:
            assert decide(asked, sweep) == (event,)
            assert evolve(sweep, event).status is same[asked]
        elif same[asked] is status:
            assert decide(asked, sweep) == ()
        else:
            with pytest.raises(Rejected) as refusal:
                decide(asked, sweep)
            assert (refusal.value.state, refusal.value.asked, refusal.value.allowed) == (status, asked, allowed)


def test_what_cannot_follow_is_no_history() -> None:
    created = SweepCreated(name="", workflow=ID, workflow_version=1, method=Method.GRID, parameters={}, max_runs=1)
    for status in S:
        for event in (created, *ACTIONS.values(), SweepFinished()):
            if (status, type(event)) not in TRANSITIONS:
                with pytest.raises(CorruptHistory):
                    evolve(Sweep(status=status), event)


def test_a_grid_has_every_point_once() -> None:
    size = grid_size(GRID)
    assert size == 9
    points = [grid_point(GRID, number) for number in range(1, size + 1)]
    assert points[:4] == [
        {"a": 1, "b": -1, "c": 0.5},
        {"a": 1, "b": 0, "c": 0.5},
        {"a": 1, "b": 1, "c": 0.5},
        {"a": "x", "b": -1, "c": 0.5},
    ]
    assert len({msgspec.json.encode(point) for point in points}) == 9
    for number in (0, 10):
        with pytest.raises(ValueError, match="no point"):
            grid_point(GRID, number)
    assert grid_size(WIDE) is None


def test_random_points_are_the_same_for_the_same_seed_and_within_bounds() -> None:
    points = [random_point(WIDE, 7, number) for number in range(1, 301)]
    assert points == [random_point(WIDE, 7, number) for number in range(1, 301)]
    assert points != [random_point(WIDE, 8, number) for number in range(1, 301)]
    for point in points:
        assert 1e-5 <= point["lr"] <= 1
        assert 0 <= point["drop"] <= 0.5
    assert {point["n"] for point in points} == {1, 2, 3, 4}
    assert {str(point["kind"]) for point in points} == {"a", "[1, 2]"}
    below = sum(point["lr"] < math.sqrt(1e-5) for point in points)
    assert 100 < below < 200, "half of the decades lie below"


def bayes(**fields: Any) -> Sweep:
    objective = Objective(name="loss", goal=Goal.MIN)
    return Sweep(method=Method.BAYES, parameters=dict(WIDE), metric=objective, max_runs=100, **fields)


def test_a_bayesian_search_goes_where_its_history_says() -> None:
    sweep = bayes(seed=3)
    assert proposed(sweep, 1, ()) == proposed(sweep, 1, ())
    history = []
    for number in range(1, 41):
        point = random_point(WIDE, 1, number)
        history.append(Result(point, ended=True, value=abs(point["drop"] - 0.4)))
    history += [Result(random_point(WIDE, 2, 1), ended=True), Result(random_point(WIDE, 2, 2), ended=False)]
    near = [proposed(sweep, number, history)["drop"] for number in range(43, 53)]
    assert near == [proposed(sweep, number, history)["drop"] for number in range(43, 53)]
    assert sum(abs(value - 0.4) < 0.1 for value in near) >= 7, near
    upwards = msgspec.structs.replace(sweep, metric=Objective(name="loss", goal=Goal.MAX))
    far = [proposed(upwards, number, history)["drop"] for number in range(43, 53)]
    assert sum(value < 0.2 for value in far) >= 7, far


def test_parameters_come_to_configuration_and_command() -> None:
    base = RunCreated(
        name="",
        session_id="",
        mode=Mode.MANAGED,
        config={"lr": 1, "epochs": 3},
        command=("python", "train.py", "${args}", "--out=${kind}-${lr}-${HOME}", "${args}x"),
        commands=(StartCommand(argv=("${args}",), working_directory="src"),),
    )
    parameters = {"lr": 0.5, "kind": "a b", "deep": [1, {"x": None}], "on": True}
    made = trial(base, ID, 4, parameters)
    given = ("--lr=0.5", "--kind=a b", '--deep=[1,{"x":null}]', "--on=true")
    assert made.command == ("python", "train.py", *given, "--out=a b-0.5-${HOME}", "${args}x")
    assert made.commands == (StartCommand(argv=given, working_directory="src"),)
    assert made.config == {"epochs": 3, **parameters}
    assert made.trial == SweepTrial(sweep=ID, number=4, parameters=parameters)
    assert len({trial_id(ID, number) for number in range(100)}) == 100


STORED = StoredWorkflow(ID, ID, None, Workflow(version=3, name="w", command=("true",)))  # type: ignore[arg-type]


def sweep_of(stored: StoredWorkflow = STORED, **body: Any) -> SweepCreated:
    document = {"workflow": "w", "method": "random", "parameters": {"n": {"value": 1}}, "max_runs": 5, **body}
    return searched(msgspec.convert(document, NewSweep), stored, 7)


def test_a_parameter_without_a_distribution_is_what_it_looks_like() -> None:
    parameters = {
        "one": {"value": None},
        "some": {"values": [1, "1"]},
        "whole": {"min": 1, "max": 3},
        "real": {"min": 1, "max": 3.5},
        "log": {"min": 1, "max": 3, "distribution": "log_uniform"},
    }
    created = sweep_of(parameters=parameters)
    assert created.parameters == {
        "one": Categorical(values=(None,)),
        "some": Categorical(values=(1, "1")),
        "whole": IntUniform(min=1, max=3),
        "real": Uniform(min=1.0, max=3.5),
        "log": LogUniform(min=1.0, max=3.0),
    }
    assert (created.seed, created.workflow_version, created.concurrency) == (7, 3, 1)
    assert sweep_of(seed=0).seed == 0
    grid = sweep_of(method="grid", parameters={"a": {"values": [1, 2]}, "b": {"min": 1, "max": 3}}, max_runs=None)
    assert grid.max_runs == 6
    assert sweep_of(method="grid", parameters={"b": {"min": 1, "max": 10**9}}, max_runs=4).max_runs == 4


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"parameters": {"a": {}}}, "$.parameters.a"),
        ({"parameters": {"a": {"value": 1, "values": [1]}}}, "$.parameters.a"),
        ({"parameters": {"a": {"min": 1}}}, "$.parameters.a"),
        ({"parameters": {"a": {"max": 1}}}, "$.parameters.a"),
        ({"parameters": {"a": {"value": 1, "max": 1}}}, "$.parameters.a"),
        ({"parameters": {"a": {"values": [1, 2, 1.0]}}}, "$.parameters.a.values[2]"),
        ({"parameters": {"a": {"values": [1, math.nan]}}}, "$.parameters.a.values[1]"),
        ({"parameters": {"a": {"value": "x\0"}}}, "$.parameters.a.value"),
        ({"parameters": {"a": {"values": [1], "distribution": "uniform"}}}, "$.parameters.a.distribution"),
        ({"parameters": {"a": {"min": 1, "max": 2, "distribution": "categorical"}}}, "$.parameters.a.distribution"),
        ({"parameters": {"a": {"min": 2, "max": 2}}}, "$.parameters.a.min"),
        ({"parameters": {"a": {"min": 0.0, "max": math.inf}}}, "$.parameters.a"),
        ({"parameters": {"a": {"min": -1.7e308, "max": 1.7e308}}}, "$.parameters.a"),
        ({"parameters": {"a": {"min": 0, "max": 2, "distribution": "log_uniform"}}}, "$.parameters.a"),
        ({"parameters": {"a": {"min": 0.5, "max": 2, "distribution": "int_uniform"}}}, "$.parameters.a"),
        ({"parameters": {"a": {"min": 0, "max": 2**60}}}, "$.parameters.a"),
        ({"method": "bayes"}, "$.metric"),
        ({"method": "bayes", "metric": {"name": "é" * 200, "goal": "min"}}, "$.metric.name"),
        ({"method": "bayes", "metric": {"name": "l", "goal": "min"}, "max_runs": MAX_BAYES_RUNS + 1}, "$.max_runs"),
        ({"max_runs": None}, "$.max_runs"),
        ({"method": "grid", "parameters": {"a": {"min": 0.5, "max": 2}}}, "$.parameters.a"),
        ({"method": "grid", "parameters": {"a": {"min": 0, "max": MAX_RUNS}}, "max_runs": None}, "$.parameters"),
    ],
)
def test_a_search_that_cannot_be_is_refused(body: dict[str, Any], path: str) -> None:
    with pytest.raises(Invalid) as refusal:
        sweep_of(**body)
    assert refusal.value.path == path


def test_a_workflow_without_a_command_makes_no_trials() -> None:
    stored = msgspec.structs.replace(STORED, workflow=Workflow(version=1, name="w"))
    with pytest.raises(Invalid, match="needs a command"):
        sweep_of(stored)
