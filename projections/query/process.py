"""`python -m projections.query.process`: one SQL query in a process of its own, which can be killed at any moment.

It is started ahead, with an empty environment, and speaks over its standard input and output in frames: MessagePack
behind eight bytes of length. It hears the `Statement`, answers which `Views` that reads, hears their `Tables`, and
answers the `Result`, or a `Refused` in place of either. Its DuckDB may read the files that it was told and nothing
else, cannot be configured any more, and writes nothing. When its input ends, so does it.
"""

import os
import resource
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import duckdb
import msgspec
import pyarrow as pa

from projections.query.limits import Limits
from projections.query.results import Format, Passed, encoded
from projections.query.statement import Refusal, admitted

BATCH_ROWS: Final = 8_192
BESIDES_BYTES: Final = 1 << 30
"""What the process may take besides DuckDB's memory: libraries, the tables that it was given, its answer."""

Parameters = list[Any] | dict[str, Any] | None
"""By order or by name; None where there are none."""

Kind = Literal["statement", "memory", "rows", "file", "fault"]
"""What a query fails for: a `fault` is ours."""


class Statement(msgspec.Struct, frozen=True, tag=True):
    """What is asked, and which views there are."""

    sql: str
    parameters: Parameters
    form: Format
    limits: Limits
    views: tuple[str, ...]


class Views(msgspec.Struct, frozen=True, tag=True):
    """The views that the statement reads."""

    names: tuple[str, ...]


class Tables(msgspec.Struct, frozen=True, tag=True):
    """What the views consist of: Arrow IPC streams, and Parquet files by view, relative to a directory."""

    directory: str
    streams: dict[str, memoryview]
    files: dict[str, list[str]]
    columns: dict[str, str]
    """By view, what is selected from its files."""


class Result(msgspec.Struct, frozen=True, tag=True):
    """The answer in the format that was asked for."""

    content: bytes


class Refused(msgspec.Struct, frozen=True, tag=True):
    """There is no answer."""

    kind: Kind
    detail: str
    limit: int | None = None


Answer = Views | Result | Refused

_encoder: Final = msgspec.msgpack.Encoder()


def frame(message: msgspec.Struct) -> bytearray:
    """Return a message as it travels."""
    framed = bytearray(8)
    _encoder.encode_into(message, framed, 8)
    framed[:8] = (len(framed) - 8).to_bytes(8, "little")
    return framed


def main() -> int:
    """Answer one query; returns the exit status."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not stand between frames
    source = sys.stdin.buffer
    limits, place = Limits(), ""
    try:
        statement = msgspec.msgpack.decode(_read(source), type=Statement)
        limits = statement.limits
        _bind(limits)
        connection = _opened(limits)
        known = admitted(connection, statement.sql, statement.views)
        _write(out, Views(known.views))
        tables = msgspec.msgpack.decode(_read(source), type=Tables)
        threading.Thread(target=_end_with, args=(source,), daemon=True).start()
        place = tables.directory
        _fill(connection, tables)
        _write(out, Result(_answer(connection, known.sql, statement)))
    except Exception as error:  # noqa: BLE001 (everything is told, and the process ends)
        _write(out, _refused(error, limits, place))
    out.flush()
    os._exit(0)


def _bind(limits: Limits) -> None:
    """Bound what the process can do, whatever it runs."""
    memory = limits.memory_bytes + limits.read_bytes * 3 + limits.bytes * 3 + BESIDES_BYTES
    for what, most in (
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_CPU, limits.seconds * (limits.threads + 2)),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def _opened(limits: Limits) -> duckdb.DuckDBPyConnection:
    """Return a DuckDB that reads no file at all yet."""
    connection = duckdb.connect(
        config={"threads": limits.threads, "memory_limit": f"{max(1, limits.memory_bytes >> 20)}MiB"}
    )
    for setting in (
        "set temp_directory = ''",
        "set python_enable_replacements = false",
        "set autoinstall_known_extensions = false",
        "set autoload_known_extensions = false",
        "set enable_progress_bar = false",
        "set enable_external_file_cache = false",
        "set TimeZone = 'UTC'",
    ):
        connection.execute(setting)
    return connection


def _fill(connection: duckdb.DuckDBPyConnection, tables: Tables) -> None:
    """Make the views, and close everything else."""
    files = [file for some in tables.files.values() for file in some]
    if files:
        os.chdir(tables.directory)  # so that no name that can be shown has a path of the machine
        if Path.cwd() != Path(tables.directory).parent.resolve() / Path(tables.directory).name:
            raise OSError("the project's directory is not where it should be")
    for file in files:
        if Path(file).is_absolute() or Path(file).resolve() != Path.cwd() / file:
            raise OSError(f"{file} is not where it should be")
    connection.execute(f"set allowed_paths = {_texts(files)}")
    for setting in ("set enable_external_access = false", "set lock_configuration = true"):
        connection.execute(setting)
    for view, stream in tables.streams.items():
        connection.register(f"{view} in postgres", pa.ipc.open_stream(stream).read_all())
        text = f'select * from "{view} in postgres"'  # noqa: S608
        if tables.files.get(view):
            source = (
                f"read_parquet({_texts(tables.files[view])}, hive_partitioning = true, hive_types = {{'run': varchar}})"
            )
            text = f"select {tables.columns[view]} from {source} union all {text}"  # noqa: S608
        connection.execute(f'create view "{view}" as {text}')


def _answer(connection: duckdb.DuckDBPyConnection, sql: str, statement: Statement) -> bytes:
    result = connection.sql(sql, params=statement.parameters)
    if result is None:
        raise Refusal("this statement has no result")
    types = {f"{n}": str(type_) for n, type_ in enumerate(result.types)}
    limits = statement.limits
    reader = result.to_arrow_reader(BATCH_ROWS)
    return encoded(statement.form, reader, types, max_rows=limits.rows, max_bytes=limits.bytes)


def _refused(error: Exception, limits: Limits, place: str) -> Refused:
    detail = str(error)
    for path in {place, str(Path(place).resolve())} if place else ():
        detail = detail.replace(f"{path}/", "").replace(path, "")
    match error:
        case Passed():
            return Refused("rows", detail, error.limit)
        case duckdb.OutOfMemoryException() | MemoryError() | pa.ArrowMemoryError():
            return Refused("memory", "", limits.memory_bytes)
        case OSError() | duckdb.IOException() | duckdb.PermissionException():
            return Refused("file", detail)
        case msgspec.DecodeError():
            return Refused("fault", detail)
        case Refusal() | duckdb.Error() | pa.ArrowException() | ValueError() | ArithmeticError() | RecursionError():
            return Refused("statement", detail)
        case _:
            return Refused("fault", f"{type(error).__name__}: {detail}")


def _texts(values: Sequence[str]) -> str:
    return "[" + ", ".join("'" + value.replace("'", "''") + "'" for value in values) + "]"


def _read(source: BinaryIO) -> bytes:
    """Return the next frame's body; the process ends where there is none."""
    size = int.from_bytes(source.read(8), "little")
    body = source.read(size)
    if not size or len(body) < size:
        os._exit(1)
    return body


def _write(out: BinaryIO, message: msgspec.Struct) -> None:
    out.write(frame(message))
    out.flush()


def _end_with(source: BinaryIO) -> None:
    """End the process at once when the other side has gone."""
    source.read(1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
