"""What MLflow's server answers, as far as it is read here. Pure.

Source: mlflow/protos/service.proto.
"""

import msgspec

from service.imports.mlflow_client import Page


class Experiment(msgspec.Struct):
    """An experiment."""

    experiment_id: str
    name: str = ""


class Info(msgspec.Struct):
    """A run's metadata; times are milliseconds since the epoch."""

    run_id: str
    experiment_id: str = ""
    run_name: str = ""
    user_id: str = ""
    status: str = ""
    start_time: int | None = None
    end_time: int | None = None
    artifact_uri: str = ""
    lifecycle_stage: str = "active"


class Pair(msgspec.Struct):
    """A parameter or a tag."""

    key: str
    value: str = ""


class Key(msgspec.Struct):
    """A metric, by name."""

    key: str


class Data(msgspec.Struct):
    """What a run logged; of metrics the names are enough."""

    metrics: list[Key] = []
    params: list[Pair] = []
    tags: list[Pair] = []


class Inputs(msgspec.Struct):
    """What a run read; it is only counted."""

    dataset_inputs: list[msgspec.Raw] = []
    model_inputs: list[msgspec.Raw] = []


class Outputs(msgspec.Struct):
    """What a run made; it is only counted."""

    model_outputs: list[msgspec.Raw] = []


class Run(msgspec.Struct):
    """A run."""

    info: Info
    data: Data = msgspec.field(default_factory=Data)
    inputs: Inputs = msgspec.field(default_factory=Inputs)
    outputs: Outputs = msgspec.field(default_factory=Outputs)


class Listed(msgspec.Struct):
    """A run in a list, of which only the id is read."""

    class Id(msgspec.Struct):
        """Its id."""

        run_id: str

    info: Id


class Point(msgspec.Struct):
    """A point of a metric; NaN and infinities come as words."""

    value: float
    timestamp: int
    step: int = 0


class Entry(msgspec.Struct):
    """A file of a run, or a directory of them; the path is from the run's root."""

    path: str
    is_dir: bool = False
    file_size: int = 0


class ExperimentsPage(Page):
    experiments: list[Experiment] = []


class RunsPage(Page):
    runs: list[Listed] = []


class HistoryPage(Page):
    metrics: list[Point] = []


class FilesPage(Page):
    files: list[Entry] = []


class RunAnswer(msgspec.Struct):
    run: Run
