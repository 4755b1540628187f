"""Which SQL statements are answered, and what each that is not is refused for."""

from collections.abc import Iterator

import duckdb
import pytest

from projections.query.statement import Refusal, admitted
from projections.query.views import VIEWS


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        yield opened


@pytest.mark.parametrize(
    ("sql", "views"),
    [
        ("select 1", ()),
        ("SELECT * FROM Runs -- all of them", ("runs",)),
        ("from runs", ("runs",)),
        ("values (1), (2)", ()),
        ("with l as (select max(step) s from metrics) select * from l, runs", ("runs", "metrics")),
        ("select * from runs where run_id in (select run_id from logs)", ("runs", "logs")),
        ("describe artifacts", ("artifacts",)),
        ("summarize credits", ("credits",)),
        ("/* why */ explain select * from events", ("events",)),
        ("explain analyze select count(*) from transitions", ("transitions",)),
        ("with recursive t(n) as (select 1 union all select n + 1 from t where n < 5) select * from t", ()),
        ("select config->>'$.lr', unnest(tags), sum(training_seconds) over (partition by status) from runs", ("runs",)),
        ("select * from range(3), generate_series(1, 2)", ()),
        ("select * from runs union all select * from runs where name = $name", ("runs",)),
    ],
)
def test_one_reading_statement_is_answered(connection: duckdb.DuckDBPyConnection, sql: str, views: tuple[str, ...]):
    known = admitted(connection, sql, tuple(VIEWS))
    assert known.views == views


FILES = [
    "select * from '/etc/passwd'",
    'select * from "/etc/passwd"',
    "select * from 'run=*/*.parquet'",
    "select * from read_csv('/etc/passwd')",
    "select * from read_text('/etc/passwd')",
    "select * from read_blob('/proc/self/environ')",
    "select * from read_parquet('/data/**/*.parquet')",
    "select * from parquet_metadata('/data/x.parquet')",
    "select * from parquet_scan(['x'])",
    "select * from glob('/**')",
    "select * from sniff_csv('/etc/passwd')",
    "select (select content from read_text('/etc/passwd'))",
    "explain analyze select * from read_text('/etc/passwd')",
    "describe select * from read_csv('/etc/passwd')",
    "describe '/etc/passwd'",
    'select * from (with "/etc/passwd" as (select 1) select 1) x, "/etc/passwd"',
    "select * from postgres_scan('host=localhost', 'public', 'run')",
]
CHANGES = [
    "attach '/tmp/x.db'",
    "detach memory",
    "copy runs to '/tmp/x.csv'",
    "copy (select 1) to '/dev/stdout'",
    "export database '/tmp/x'",
    "import database '/tmp/x'",
    "pragma version",
    "pragma database_list",
    "set memory_limit = '100GB'",
    "set variable a = 1",
    "reset memory_limit",
    "install httpfs",
    "load httpfs",
    "call duckdb_settings()",
    "create table x as select 1",
    "create macro f() as 1",
    "create secret (type s3)",
    "insert into runs values (1)",
    "delete from runs",
    "update runs set name = 'x'",
    "drop view runs",
    "prepare p as select 1",
    "execute p",
    "checkpoint",
    "vacuum",
    "begin",
    "use system",
    "explain copy runs to '/tmp/x'",
    "explain explain select 1",
    "with x as (insert into runs values (1) returning *) select * from x",
    "select 1; select 2",
    "select 1; attach '/tmp/x'",
    "",
    "-- nothing",
]
TELLING = [
    "select * from duckdb_settings()",
    "select * from duckdb_secrets()",
    "select * from duckdb_views()",
    "select * from duckdb_views",
    "select * from pragma_database_size()",
    "select * from query('select 1')",
    "select * from query_table('runs')",
    "select * from json_execute_serialized_sql('{}')",
    "select * from pg_settings",
    "select * from sqlite_master",
    "select * from information_schema.tables",
    "select * from system.main.runs",
    "select * from memory.main.runs",
    "select * from main.runs",
    "select * from pg_catalog.pg_class",
    "show tables",
    "show all tables",
    "show databases",
    "select getenv('HOME')",
    "select current_setting('allowed_paths')",
    "select pg_catalog.current_setting('allowed_paths')",
    "select pg_get_viewdef(1)",
    "select getvariable('x')",
    "select sum(length(current_setting('home_directory'))) over () from runs",
    "select list_transform([1], x -> current_setting('threads'))",
    "select write_log('x')",
    "select sleep_ms(100000)",
    "select * from (with pg_settings as (select 1) select 1) x, pg_settings",
    'select * from "metrics in postgres"',
    "select * from secrets",
]


@pytest.mark.parametrize("sql", [*FILES, *CHANGES, *TELLING])
def test_anything_else_is_refused_before_it_runs(connection: duckdb.DuckDBPyConnection, sql: str):
    with pytest.raises((Refusal, duckdb.Error)):
        admitted(connection, sql, tuple(VIEWS))
