"""How a reproduction says what it changed."""

from typing import Any

import pytest

from service.runs.reproduction import differences


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"lr": 0.1}, {"lr": 0.1}, []),
        ({"lr": 0.1}, {"lr": 0.2}, [("$.config.lr", 0.1, 0.2)]),
        ({"lr": 0.1}, {}, [("$.config.lr", 0.1, None)]),
        ({}, {"lr": None}, []),
        ({"m": {"d": 3, "w": 4}}, {"m": {"d": 5, "w": 4, "x": 1}}, [("$.config.m.d", 3, 5), ("$.config.m.x", None, 1)]),
        ({"m": {"d": 3}}, {"m": 7}, [("$.config.m", {"d": 3}, 7)]),
        ({"a.b": 1, "": 1, "é": 1, 'q"': 1}, {}, [
            ('$.config["a.b"]', 1, None), ('$.config[""]', 1, None), ("$.config.é", 1, None),
            ('$.config["q\\""]', 1, None),
        ]),
        ({"l": [1, 2]}, {"l": [1, 3]}, [("$.config.l", [1, 2], [1, 3])]),
        ({"t": 1}, {"t": True}, [("$.config.t", 1, True)]),
        ({"l": [1]}, {"l": [True]}, [("$.config.l", [1], [True])]),
    ],
)  # fmt: skip
def test_differences_are_named_by_their_paths(old: Any, new: Any, expected: list[tuple[str, Any, Any]]) -> None:
    found = differences(old, new, "$.config")
    assert [(one.path, one.old, one.new) for one in found] == expected
