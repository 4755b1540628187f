"""What other trackers leave, as they leave it, for tests of imports."""

import struct
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tensorboardX import SummaryWriter
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.proto.tensor_pb2 import TensorProto
from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto

RUN = "0123456789abcdef0123456789abcdef"
KILLED = "11111111111111111111111111111111"
MS = 1_700_000_000_000


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def mlflow_run(experiment: Path, run_id: str, **meta: Any) -> Path:
    directory = experiment / run_id
    document = {
        "artifact_uri": f"file:///mlruns/0/{run_id}/artifacts", "end_time": MS + 5_000, "entry_point_name": "''",
        "experiment_id": "'0'", "lifecycle_stage": "active", "run_id": f"'{run_id}'", "run_name": "upset-loon",
        "run_uuid": f"'{run_id}'", "source_name": "''", "source_type": 4, "source_version": "''", "start_time": MS,
        "status": 3, "tags": "[]", "user_id": "ada",
    } | meta  # fmt: skip
    write(directory / "meta.yaml", "".join(f"{name}: {value}\n" for name, value in document.items()))
    for name in ("metrics", "params", "tags", "artifacts"):
        (directory / name).mkdir()
    return directory


def mlflow_store(root: Path) -> Path:
    """A file store with two runs, one of them killed."""
    write(root / "0" / "meta.yaml", "experiment_id: '0'\nname: Default\nlifecycle_stage: active\n")
    run = mlflow_run(root / "0", RUN)
    lines = [f"{MS} 0.1 0", f"{MS + 1} nan 1", f"{MS + 2} inf 2", f"{MS + 3} -inf -3", f"{MS + 4} 1e-320 {2**53 + 1}"]
    write(run / "metrics" / "loss", "\n".join(lines) + "\n")
    write(run / "metrics" / "val" / "acc", f"{MS} 0.30000000000000004 7 data abc\n")
    for name, text in {"lr": "0.1", "layers": "3", "note": "a\nb", "exact": "1e-3", "opt/name": "adam"}.items():
        write(run / "params" / name, text)
    for name, text in {"team": "x", "mlflow.user": "ada", "mlflow.note.content": "a note"}.items():
        write(run / "tags" / name, text)
    write(run / "artifacts" / "model" / "weights.bin", "w" * 10)
    write(run / "artifacts" / "empty", "")
    write(run / "inputs" / "794a4bcfb228b309901211dfcda9860e" / "meta.yaml", "destination_type: RUN\n")
    (run / "artifacts" / "link").symlink_to("/etc/hostname")
    mlflow_run(root / "0", KILLED, status=5, run_name="killed")
    return root


AT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
SCHEMA = pa.schema(
    {
        "project_id": pa.string(),
        "run_id": pa.string(),
        "attribute_path": pa.string(),
        "attribute_type": pa.string(),
        "step": pa.decimal128(18, 6),
        "timestamp": pa.timestamp("ms", "UTC"),
        "int_value": pa.int64(),
        "float_value": pa.float64(),
        "string_value": pa.string(),
        "bool_value": pa.bool_(),
        "datetime_value": pa.timestamp("ms", "UTC"),
        "string_set_value": pa.list_(pa.string()),
        "file_value": pa.struct({"path": pa.string()}),
        "histogram_value": pa.struct(
            {"type": pa.string(), "edges": pa.list_(pa.float64()), "values": pa.list_(pa.float64())}
        ),
    }
)


def one(path: str, kind: str, value: Any, column: str | None = None, **more: Any) -> dict[str, Any]:
    return {"attribute_path": path, "attribute_type": kind, f"{column or kind}_value": value, **more}


def series(path: str, step: str, value: float, seconds: int = 0) -> dict[str, Any]:
    return one(path, "float_series", value, "float", step=Decimal(step), timestamp=AT + timedelta(seconds=seconds))


def part(root: Path, run_id: str, *parts: list[dict[str, Any]]) -> None:
    directory = root / "data" / "org_project-0a1b"
    directory.mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate(parts):
        every = [{"project_id": "org/project", "run_id": run_id, **row} for row in rows]
        path = directory / f"{run_id}_part_{number}.parquet"
        pq.write_table(pa.Table.from_pylist(every, SCHEMA), path, compression="snappy")


def neptune_export(root: Path) -> Path:
    """An export with a run of everything, and one with a step that is a fraction."""
    files = root / "files" / "org_project-0a1b" / "RUN-1"
    for name in ("w.bin", "pixels/step_2.png", "source/a.py", "source/b/c.py"):
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).write_bytes(b"weights")
    (root.parent / "secret").write_bytes(b"secret")
    first = [
        one("sys/name", "string", "my experiment"),
        one("sys/creation_time", "datetime", AT - timedelta(hours=1)),
        one("sys/tags", "string_set", ["b", "a"]),
        one("sys/failed", "bool", True),
        one("params/lr", "float", 0.1),
        one("params/n", "int", 2**53 + 1),
        one("params/when", "datetime", AT),
        one("params/of another run", "int", None),
        one("model", "file", {"path": "RUN-1/w.bin"}),
        one("pixels", "file_series", {"path": "RUN-1/pixels/step_2.png"}, "file", step=Decimal("2.000000")),
        one("source", "file_set", {"path": "RUN-1/source"}, "file"),
        one("file of another run", "file", None),
        one("evil", "file", {"path": "../../secret"}),
        {**series("train/loss", "9", 0.0), "float_value": None},
        series("train/loss", "0", 0.1),
        series("train/loss", "1", float("nan"), 1),
    ]
    second = [
        series("train/loss", "2", float("inf"), 2),
        one("monitoring/0/stdout", "string_series", "hello", "string", step=Decimal(0), timestamp=AT),
        one("notes", "string_series", "free", "string", step=Decimal(0), timestamp=AT),
        one("w", "histogram_series", {"type": "COUNTING", "edges": [0.0, 1.0], "values": [1.0]}, "histogram"),
    ]
    part(root, "RUN-1", first, second)
    part(root, "RUN-2", [series("x", "0.5", 1.0)])
    return root


BEGAN = 1_700_000_000.0
US = 1_700_000_000_000_000
DT_FLOAT, DT_DOUBLE, DT_INT32, DT_STRING, DT_INT64, DT_BFLOAT16, DT_HALF = 1, 2, 3, 7, 9, 14, 19


def tensor(tag: str, value: TensorProto, plugin: str | None = "scalars") -> Summary:
    metadata = None
    if plugin is not None:
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin))
    return Summary(value=[Summary.Value(tag=tag, tensor=value, metadata=metadata)])


def tensorboard_logs(root: Path) -> Path:
    """A directory with two runs: one with scalars of either encoding and much besides, one with a few scalars."""
    with SummaryWriter(str(root / "train")) as writer:
        for step, value in enumerate((0.1, float("nan"), float("inf"), float("-inf"), -0.0)):
            writer.add_scalar("loss", value, step, walltime=BEGAN + step)
        writer.add_scalar("loss", 0.25, 2, walltime=BEGAN + 9)
        writer.add_scalar("big", 1.5, 2**53 + 1, walltime=BEGAN)
        new = TensorProto(dtype=DT_FLOAT, float_val=[0.5], tensor_shape=TensorShapeProto())
        writer.file_writer.add_summary(tensor("new", new), 1, walltime=BEGAN)
        writer.file_writer.add_summary(tensor("new", new, plugin=None), 2, walltime=BEGAN)
        raw = TensorProto(dtype=DT_DOUBLE, tensor_content=struct.pack("<d", 0.1))
        writer.file_writer.add_summary(tensor("double", raw), 1, walltime=BEGAN)
        writer.add_text("note", "hello", 1, walltime=BEGAN)
        writer.add_histogram("weights", np.arange(10), 1, walltime=BEGAN)
        for size in (10, 100_000):
            image = Summary.Image(height=1, width=1, colorspace=3, encoded_image_string=b"x" * size)
            writer.file_writer.add_summary(Summary(value=[Summary.Value(tag="pixels", image=image)]), 1, walltime=BEGAN)
    with SummaryWriter(str(root)) as writer:
        writer.add_scalar("x", 1, 0, walltime=BEGAN)
        writer.add_hparams({"lr": 0.1, "layers": 3, "name": "a", "on": True}, {"best": 0.5}, name="trial")
    return root
