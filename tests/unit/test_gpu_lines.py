"""Bytes of an output file -> lines."""

import pytest

from workers.gpu.lines import Line, LineSplitter


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b"", []),
        (b"a\nb\n", ["a", "b"]),
        (b"a\n\nb\n", ["a", "", "b"]),
        (b"windows\r\nends\r\n", ["windows", "ends"]),
        (b"last line without end", ["last line without end"]),
        (b"\r\r\r", []),
        (b"0%\r50%\r100%\n", ["100%"]),
        (b"\r  0%|   |\r 50%|#  |\r100%|###|\ndone\n", ["100%|###|", "done"]),
        (b"100%\r\n", ["100%"]),
        ("grüße, 世界\n".encode(), ["grüße, 世界"]),
        (b"\xff\xfe broken\n", ["\ufffd\ufffd broken"]),
        (b"nul \x00 stays\n", ["nul \x00 stays"]),
    ],
)
def test_what_a_program_writes_becomes_lines(written: bytes, expected: list[str]) -> None:
    splitter = LineSplitter()
    assert texts(splitter.feed(written, 0.0) + splitter.finish()) == expected


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_chunks_may_be_cut_anywhere(size: int) -> None:
    written = "eins\r\nzwei 世界\n\ndrei\nrest".encode()
    splitter = LineSplitter()
    lines = [line for i in range(0, len(written), size) for line in splitter.feed(written[i : i + size], 0.0)]
    lines += splitter.finish()
    assert texts(lines) == ["eins", "zwei 世界", "", "drei", "rest"]
    assert lines[-1].end == len(written)


def test_every_line_says_where_reading_goes_on() -> None:
    written = b"one\ntwo\r\nprogress 1\rprogress 2\nthree"
    first = LineSplitter().feed(written, 0.0)
    for number, line in enumerate(first, start=1):
        again = LineSplitter(line.end)
        rest = again.feed(written[line.end :], 0.0)
        assert rest == first[number:]


def test_a_running_progress_bar_is_shown_every_few_seconds_and_at_its_end() -> None:
    splitter = LineSplitter(progress_seconds=5.0)
    seen = [(second, texts(splitter.feed(f"\r{second}%".encode(), float(second)))) for second in range(13)]
    assert [entry for entry in seen if entry[1]] == [(1, ["0%"]), (6, ["5%"]), (11, ["10%"])]
    assert texts(splitter.feed(b"\r100%\n", 13.0)) == ["100%"]


def test_a_long_line_is_cut_between_characters_and_nothing_of_it_is_lost() -> None:
    splitter = LineSplitter(limit_bytes=10)
    lines = splitter.feed(("ä" * 14 + "x\n").encode(), 0.0)
    assert all(len(line.text.encode()) <= 10 for line in lines)
    assert "".join(texts(lines)) == "ä" * 14 + "x"
    assert lines[-1].end == 30


def test_an_unfinished_long_line_is_not_held() -> None:
    splitter = LineSplitter(limit_bytes=8)
    assert texts(splitter.feed(b"x" * 20, 0.0)) == ["x" * 8, "x" * 8]
    assert texts(splitter.finish()) == ["x" * 4]


def test_bytes_that_never_form_a_character_are_cut_all_the_same() -> None:
    splitter = LineSplitter(limit_bytes=8)
    lines = splitter.feed(b"\x80" * 20 + b"\n", 0.0)
    assert lines[-1].end == 21
    assert sum(len(line.text) for line in lines) == 20
