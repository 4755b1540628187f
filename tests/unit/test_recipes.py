"""What the API takes for a recipe, and what of it events hold."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest

from events.run_events import RunCreated
from events.types import Liveness, Mode, Resources, StartCommand, Volume
from events.workflow import Workflow
from projections.workflows import StoredWorkflow
from service.bodies import NewRun, WorkflowBody
from service.problems import Invalid
from service.recipes import checked, inner_path
from service.runs import creation

STORED = StoredWorkflow(
    UUID(int=1),
    UUID(int=2),
    datetime(2026, 3, 1, tzinfo=UTC),
    Workflow(
        version=4,
        name="digits",
        dataset="digits@7",
        dataset_split={"train": 0.8},
        training_parameters={"lr": 0.1, "n": 3},
        commands=(StartCommand(argv=("prepare",)), StartCommand(argv=("train",), working_directory="src")),
        environment={"A": "1", "B": "b"},
        secrets=("S",),
        resources=Resources(accelerator="cuda", count=4),
        import_volumes=(Volume(place="volume:data", path="data"),),
        export_volumes=(Volume(place="artifact:model", path="out"),),
        protection=True,
        estimate_seconds=60.0,
        code="artifact:r/code.zip",
        retries=2,
    ),
)


def run_of(workflow: StoredWorkflow | None = None, **body: Any) -> RunCreated:
    return creation.created(msgspec.convert(body, NewRun), workflow)


@pytest.mark.parametrize(
    ("body", "command", "commands"),
    [
        ({"command": ["a", "b"]}, ("a", "b"), ()),
        ({"commands": [{"argv": ["a", "b"]}]}, ("a", "b"), ()),
        (
            {"commands": [{"argv": ["a"], "working_directory": "./src//x/"}]},
            (),
            (StartCommand(argv=("a",), working_directory="src/x"),),
        ),
        (
            {"commands": [{"argv": ["a"]}, {"argv": ["b", ""]}]},
            (),
            (StartCommand(argv=("a",)), StartCommand(argv=("b", ""))),
        ),
    ],
)
def test_commands_have_one_way_to_be_said(body: dict[str, Any], command: Any, commands: Any) -> None:
    created = run_of(**body)
    assert (created.command, created.commands) == (command, commands)
    assert created.mode is Mode.MANAGED


def test_a_run_takes_from_its_workflow_what_it_does_not_say_itself() -> None:
    plain = run_of(STORED)
    recipe = STORED.workflow
    for name in ("commands", "environment", "secrets", "resources", "import_volumes", "export_volumes", "code"):
        assert getattr(plain, name) == getattr(recipe, name), name
    assert (plain.protection, plain.estimate_seconds, plain.retries) == (True, 60.0, 2)
    assert (plain.config, plain.dataset) == ({"lr": 0.1, "n": 3}, "digits@7")
    assert plain.workflow is not None
    assert (plain.workflow.version, plain.workflow.dataset_split) == (4, {"train": 0.8})
    own = run_of(
        STORED,
        command=["other"],
        environment={"A": "2"},
        secrets=["S", "T"],
        resources={"count": 2},
        import_volumes=[{"place": "volume:v", "path": "in"}],
        protection=False,
        estimate_seconds=5,
        code="artifact:x/code.zip",
        dataset="digits@8",
        retries=0,
        priority=-3,
        config={"lr": 1},
    )
    assert (own.command, own.commands) == (("other",), ())
    assert (own.environment, own.secrets) == ({"A": "2", "B": "b"}, ("S", "T"))
    assert (own.resources, own.import_volumes) == (Resources(count=2), (Volume(place="volume:v", path="in"),))
    assert (own.protection, own.estimate_seconds, own.retries, own.priority) == (False, 5.0, 0, -3)
    assert (own.code, own.dataset, own.config) == ("artifact:x/code.zip", "digits@8", {"lr": 1, "n": 3})


def test_a_tracked_run_takes_nothing_that_only_a_worker_heeds() -> None:
    created = run_of(STORED, mode="tracked")
    assert (created.command, created.commands, created.retries) == ((), (), 0)
    assert (created.import_volumes, created.export_volumes) == ((), ())


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"command": [""]}, "$.command[0]"),
        ({"command": ["a"], "commands": [{"argv": ["b"]}]}, "$.commands"),
        ({"commands": [{"argv": ["b"]}, {"argv": [""]}]}, "$.commands[1].argv[0]"),
        ({"commands": [{"argv": ["b"], "working_directory": "/etc"}]}, "$.commands[0].working_directory"),
        ({"commands": [{"argv": ["b"], "working_directory": "a/../.."}]}, "$.commands[0].working_directory"),
        ({"commands": [{"argv": ["b"], "working_directory": "a\\..\\.."}]}, "$.commands[0].working_directory"),
        ({"commands": [{"argv": ["b"], "working_directory": "C:/x"}]}, "$.commands[0].working_directory"),
        ({"commands": [{"argv": ["b"], "working_directory": "a\0"}]}, "$.commands[0].working_directory"),
        ({"mode": "managed"}, "$.command"),
        ({"retries": 1}, "$.retries"),
        ({"priority": 1}, "$.priority"),
        ({"import_volumes": [{"place": "volume:x", "path": "y"}]}, "$.import_volumes"),
        ({"command": ["a"], "import_volumes": [{"place": "x", "path": "y"}]}, "$.import_volumes[0].place"),
        ({"command": ["a"], "import_volumes": [{"place": "artifact:x", "path": "y"}]}, "$.import_volumes[0].place"),
        ({"command": ["a"], "import_volumes": [{"place": "volume:../x", "path": "y"}]}, "$.import_volumes[0].place"),
        ({"command": ["a"], "import_volumes": [{"place": "volume:x", "path": "../y"}]}, "$.import_volumes[0].path"),
        (
            {
                "command": ["a"],
                "import_volumes": [{"place": "volume:x", "path": "y"}, {"place": "volume:z", "path": "./y/"}],
            },
            "$.import_volumes[1].path",
        ),
        ({"command": ["a"], "export_volumes": [{"place": "volume:x", "path": "~y"}]}, "$.export_volumes[0].path"),
        ({"liveness": {"beat_seconds": 20}}, "$.liveness"),
        ({"liveness": {"unresponsive_seconds": 50}}, "$.liveness"),
        ({"path": "../x"}, "$.path"),
    ],
)
def test_what_cannot_be_is_refused_with_its_path(body: dict[str, Any], path: str) -> None:
    with pytest.raises(Invalid) as refusal:
        run_of(**body)
    assert refusal.value.path == path


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"resources": {"count": -1}}, "$.resources.count"),
        ({"resources": {"count": 0}}, "$.resources.count"),
        ({"resources": {"count": 1_025}}, "$.resources.count"),
        ({"resources": {"count": 1 << 62}}, "$.resources.count"),
        ({"resources": {"count": "4"}}, "$.resources.count"),
        ({"resources": {"accelerator": ""}}, "$.resources.accelerator"),
        ({"resources": {"accelerator": "x\0"}}, "$.resources.accelerator"),
        ({"resources": {"gpus": 1}}, "$.resources"),
        ({"retries": -1}, "$.retries"),
        ({"retries": 101}, "$.retries"),
        ({"commands": [{"argv": []}]}, "$.commands[0].argv"),
        ({"commands": [{"argv": ["a"]}] * 101}, "$.commands"),
        ({"code": ""}, "$.code"),
        ({"estimate_seconds": float("nan")}, "$.estimate_seconds"),
        ({"estimate_seconds": float("inf")}, "$.estimate_seconds"),
    ],
)
@pytest.mark.parametrize("kind", [NewRun, WorkflowBody])
def test_a_bound_is_named_with_its_path(body: dict[str, Any], path: str, kind: type[Any]) -> None:
    with pytest.raises(msgspec.ValidationError) as refusal:
        msgspec.msgpack.decode(msgspec.msgpack.encode(body), type=kind)
    assert f"`{path}`" in str(refusal.value) or "unknown field `gpus`" in str(refusal.value)


@pytest.mark.parametrize(
    "live",
    [
        {"beat_seconds": 0},
        {"beat_seconds": -1},
        {"beat_seconds": float("nan")},
        {"crashed_seconds": float("inf")},
        {"crashed_seconds": 8 * 86_400},
    ],
)
def test_absurd_heartbeats_are_refused(live: dict[str, float]) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.liveness"):
        msgspec.msgpack.decode(msgspec.msgpack.encode({"liveness": live}), type=NewRun)


def test_periods_of_a_run_are_its_own() -> None:
    live = {"beat_seconds": 0.5, "unresponsive_seconds": 2, "crashed_seconds": 4.0}
    expected = Liveness(beat_seconds=0.5, unresponsive_seconds=2.0, crashed_seconds=4.0)
    assert run_of(liveness=live).liveness == expected


@pytest.mark.parametrize("split", [{"train": 0.8, "validation": 0.3}, {"a": 1.0, "b": 0.001}])
def test_shares_of_a_dataset_are_no_more_than_all_of_it(split: dict[str, float]) -> None:
    with pytest.raises(Invalid) as refusal:
        checked({"dataset_split": split})
    assert (refusal.value.path, refusal.value.limit) == ("$.dataset_split", 1)
    checked({"dataset_split": {"train": 0.7, "validation": 0.2, "test": 0.1}})


def test_a_change_of_commands_replaces_both_ways_to_say_them() -> None:
    assert checked({"command": ("x",)}) == {"command": ("x",), "commands": ()}
    assert "command" not in checked({"protection": True})


@pytest.mark.parametrize(("given", "path"), [("", ""), (".", ""), ("a//b/./c/", "a/b/c"), ("a\\b", "a/b")])
def test_inner_paths_are_cleaned(given: str, path: str) -> None:
    assert inner_path(given, "$") == path
