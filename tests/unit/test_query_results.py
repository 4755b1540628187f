"""Results of queries as JSON and CSV: whatever the columns hold, and in however many pieces they are written."""

import csv
import io
import json

import duckdb
import pytest

from projections.query import results
from projections.query.results import Format, Passed, encoded

SQL = """
select range % 2 = 0 as flag, [range, null] as list, {'a': range, 'b': 'ü"'} as struct, map {'k': range} as map,
       interval 1 day as span, case when range > 0 then 'a,"b' || range end as text, 'nan'::double as number,
       '\\xAA'::blob as blob, 170141183460469231731687303715884105727::hugeint as huge, null as nothing
from range(3)
"""
HUGE = 2**127 - 1


def answer(form: Format, sql: str = SQL, *, max_rows: int = 100, max_bytes: int = 1 << 20) -> str:
    relation = duckdb.connect().sql(sql)
    types = {f"{n}": str(type_) for n, type_ in enumerate(relation.types)}
    return encoded(form, relation.to_arrow_reader(2), types, max_rows=max_rows, max_bytes=max_bytes).decode()


def row(n: int) -> list[object]:
    text = f'a,"b{n}' if n else None
    return [n % 2 == 0, [n, None], {"a": n, "b": 'ü"'}, [["k", n]], [0, 1, 0], text, "NaN", "aa", HUGE, None]


def cells(n: int) -> list[str]:
    struct = f'{{"a":{n},"b":"ü\\""}}'
    flag = "true" if n % 2 == 0 else "false"
    text = f'a,"b{n}' if n else ""
    return [flag, f"[{n},null]", struct, f'[["k",{n}]]', "[0,1,0]", text, "NaN", "aa", str(HUGE), ""]


@pytest.mark.parametrize("piece_bytes", [1, 1 << 20])
def test_a_row_is_told_in_full_wherever_a_piece_ends(monkeypatch: pytest.MonkeyPatch, piece_bytes: int) -> None:
    monkeypatch.setattr(results, "PIECE_BYTES", piece_bytes)
    assert json.loads(answer("json"))["rows"] == [row(n) for n in range(3)]
    head, *lines = csv.reader(io.StringIO(answer("csv"), newline=""))
    assert head[:2] == ["flag", "list"]
    assert lines == [cells(n) for n in range(3)]
    assert answer("spreadsheet") == answer("csv")


@pytest.mark.parametrize(
    ("form", "nothing"),
    [
        ("json", '{"columns":[{"name":"one","type":"INTEGER"}],"rows":[]}'),
        ("csv", "one\r\n"),
        ("spreadsheet", "one\r\n"),
    ],
)
def test_a_result_past_a_bound_is_none(form: Format, nothing: str) -> None:
    assert answer(form, "select 1 as one limit 0") == nothing
    with pytest.raises(Passed, match="more than 2 rows"):
        answer(form, max_rows=2)
    with pytest.raises(Passed, match="more than 100 bytes"):
        answer(form, "select repeat('x', 60) from range(2)", max_bytes=100)
