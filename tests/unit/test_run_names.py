"""Names of runs, and their paths."""

from random import Random

import pytest

from events.run_names import TRIES, names
from service.problems import Invalid
from service.runs.names import clean_path, no_id


@pytest.mark.parametrize(
    ("given", "path"),
    [
        (None, "default"),
        ("default", "default"),
        ("/", "/"),
        ("", "/"),
        ("\\", "/"),
        ("cv/detection/yolo-v5_2", "cv/detection/yolo-v5_2"),
        ("cv\\detection\\yolo", "cv/detection/yolo"),
        ("/a/b/", "a/b"),
        ("a//b", "a/b"),
        ("x" * 200, "x" * 200),
        ("/" + "x" * 200 + "/", "x" * 200),
    ],
)
def test_paths_are_cleaned(given: str | None, path: str) -> None:
    assert clean_path(given) == path
    assert clean_path(path) == path


@pytest.mark.parametrize(
    "given",
    [
        *(
            "..",
            "../x",
            "a/..",
            "a/../b",
            "a..b",
            "..\\x",
            "a/./b",
            ".",
            "~root",
            "C:\\x",
            "//",
            " ",
            "a b",
            "a\0",
            "a\n",
        ),
        *(f"a{letter}b" for letter in "é.;'*%\u202e"),
    ],
)
def test_paths_that_climb_or_are_none_are_refused(given: str) -> None:
    with pytest.raises(Invalid) as refusal:
        clean_path(given)
    assert refusal.value.path == "$.path"


def test_a_path_has_200_characters_at_most() -> None:
    with pytest.raises(Invalid) as refusal:
        clean_path("x" * 201)
    assert (refusal.value.path, refusal.value.limit) == ("$.path", 200)


def test_names_are_memorable_and_become_longer_the_more_are_taken() -> None:
    found = [name for name, _ in names(None, Random(1))]
    assert len(found) == TRIES == len(set(found))
    digits = [len(name.rpartition("-")[2]) for name in found]
    assert digits == [3 + tried // 4 for tried in range(TRIES)]
    assert all(len(name.split("-")) == 3 for name in found)


def test_a_workflows_runs_are_told_apart_by_their_session() -> None:
    found = list(names("digits", Random(1)))
    assert [name for name, _ in found] == [f"digits-{session}" for _, session in found]
    assert len(found[0][1]) == 8
    assert len({name for name, _ in found}) == TRIES
    assert len(found[-1][1]) == 22


def test_what_reads_like_an_id_is_no_name() -> None:
    assert no_id("digits") == "digits"
    for name in ("01890000-0000-7000-8000-000000000001", "{01890000000070008000000000000001}"):
        with pytest.raises(Invalid) as refusal:
            no_id(name)
        assert refusal.value.path == "$.name"
