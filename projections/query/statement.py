"""Which statements are answered: exactly one SELECT, WITH, EXPLAIN or DESCRIBE over the views of a project.

DuckDB itself takes the statement apart; what it consists of is looked at, not its text. This is the first wall: a
statement that passes it meets a DuckDB that may read the project's own files and nothing else (see `process`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import duckdb
import msgspec

TABLE_FUNCTIONS: Final = frozenset({"range", "generate_series", "unnest", "json_each", "json_tree", "repeat"})
NODES: Final = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
SHOWN: Final = frozenset({"DESCRIBE", "SUMMARY"})

_EXPLAIN: Final = re.compile(
    r"(?is)\A(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*explain\b\s*(?P<analyze>analyze\b)?\s*(?:\(\s*analyze\s*\))?"
)
_TELLING: Final = re.compile(
    r"(?i)\A(?:pg_(?!typeof\b)|has_|read_|getenv|getvariable|current_setting|current_query|current_connection|in_search_path"
    r"|write_log|parse_duckdb|sleep|nextval|currval|setval|json_serialize|json_deserialize|json_execute|which_secret)"
)
"""Functions that tell of the machine or the session, or do something besides returning a value."""
_PLAIN: Final = re.compile(r"[^./\\:*?\x00]+\Z")


class Refusal(Exception):
    """The statement is not answered; says why."""


class Admitted(msgspec.Struct, frozen=True):
    """A statement that is answered, as it is to be run, and the views that it reads."""

    sql: str
    views: tuple[str, ...]


def admitted(connection: duckdb.DuckDBPyConnection, sql: str, views: Sequence[str]) -> Admitted:
    """Return a statement with the views that it reads. Raises `Refusal`, and DuckDB's errors where it cannot parse."""
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise Refusal(f"a query is exactly one statement, not {len(statements)}")
    (statement,) = statements
    text, prefix = statement.query, ""
    if statement.type == duckdb.StatementType.EXPLAIN:
        text, prefix = _explained(connection, text)
    elif statement.type != duckdb.StatementType.SELECT:
        raise Refusal(f"a query is a SELECT, WITH, EXPLAIN or DESCRIBE statement, not {statement.type.name}")
    (row,) = connection.sql("select json_serialize_sql($1::varchar)", params=[text]).fetchall()
    tree = msgspec.json.decode(row[0])
    if tree.get("error"):
        raise Refusal(f"this statement is not answered: {tree.get('error_message')}")
    internal = {
        name for (name,) in connection.sql("select lower(view_name) from duckdb_views() where internal").fetchall()
    }
    return Admitted(prefix + text, _checked(tree["statements"], views, internal))


def _explained(connection: duckdb.DuckDBPyConnection, text: str) -> tuple[str, str]:
    """Return what an EXPLAIN explains, and the words before it."""
    found = _EXPLAIN.match(text)
    rest = text[found.end() :] if found else ""
    inner = connection.extract_statements(rest) if rest.strip() else []
    if found is None or len(inner) != 1 or inner[0].type != duckdb.StatementType.SELECT:
        raise Refusal("EXPLAIN explains one SELECT, WITH or DESCRIBE statement, without options but ANALYZE")
    return inner[0].query, "explain analyze " if found["analyze"] else "explain "


def _checked(tree: Any, views: Sequence[str], internal: set[str]) -> tuple[str, ...]:
    """Return the views that a parsed statement reads. Raises `Refusal` for anything else that it touches."""
    named: set[str] = set()
    read: set[str] = set()
    for node in _nodes(tree):
        named |= _names(node)
        _check_node(node)
        if node.get("type") == "BASE_TABLE":
            read.add(_table(node))
    for name in named:
        if name in internal or not _PLAIN.match(name):
            raise Refusal(f"a common table expression cannot be called {name!r}")
    unknown = read - named - set(views)
    if unknown:
        raise Refusal(f"there is no table {min(unknown)!r}; there are {', '.join(views)}")
    return tuple(view for view in views if view in read)


def _check_node(node: Mapping[str, Any]) -> None:
    kind = str(node.get("type", ""))
    if kind.endswith("_NODE") and "modifiers" in node and kind not in NODES:
        raise Refusal("a query changes nothing: INSERT, UPDATE and DELETE are not answered, in WITH neither")
    if kind == "TABLE_FUNCTION":
        name = str(node["function"].get("function_name", "")).lower()
        if name not in TABLE_FUNCTIONS:
            raise Refusal(f"the table function {name!r} is not allowed; there are {', '.join(sorted(TABLE_FUNCTIONS))}")
    if kind == "SHOW_REF" and (node.get("query") is None or node.get("show_type") not in SHOWN):
        raise Refusal("SHOW is not answered; DESCRIBE and SUMMARIZE are")
    called = node.get("function_name")
    if isinstance(called, str):
        path = (node.get("qualified_name") or {}).get("path") or [called]
        if len(path) > 1 or node.get("schema") or node.get("catalog") or _TELLING.match(called):
            raise Refusal(f"the function {'.'.join(path)!r} is not allowed")


def _names(node: Mapping[str, Any]) -> set[str]:
    """Return the names that a node gives to common table expressions."""
    found = {str(one["key"]).lower() for one in (node.get("cte_map") or {}).get("map", ())}
    if node.get("type") in {"RECURSIVE_CTE_NODE", "CTE_NODE"}:
        found.add(str(node.get("cte_name") or node.get("ctename") or "").lower())
    return found - {""}


def _table(node: Mapping[str, Any]) -> str:
    path = (node.get("qualified_name") or {}).get("path") or [node.get("table_name", "")]
    if len(path) > 1 or node.get("schema_name") or node.get("catalog_name"):
        raise Refusal(f"tables are named without a schema, unlike {'.'.join(path)!r}")
    return str(path[0]).lower()


def _nodes(tree: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every object of a document; without recursion, since users decide how deep it is."""
    waiting = [tree]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
