"""A file in parts reads as the file that it was, wherever one looks."""

import io
import os
import random

from projections.storage.artifacts import PART_BYTES
from service.imports.slices import Slice, parted


def test_any_stretch_of_a_file_in_parts_is_that_of_the_file() -> None:
    data = random.Random(0).randbytes(2 * PART_BYTES + 1_001)
    asked: list[int] = []

    def read(number: int) -> bytes:
        asked.append(number)
        return data[number * PART_BYTES : (number + 1) * PART_BYTES]

    open_ = parted(read, len(data))
    with open_() as file:
        assert file.read() == data
        assert file.read(1) == b""
        for start, size in [(0, 3), (PART_BYTES - 2, 5), (2 * PART_BYTES - 1, 2_000), (len(data) - 1, 10)]:
            file.seek(start)
            assert file.read(size) == data[start : start + size]
        assert file.seek(-5, os.SEEK_END) == len(data) - 5
        assert file.read() == data[-5:]
    assert asked == [0, 1, 2]
    with io.BufferedReader(Slice(open_, PART_BYTES - 10, 20)) as stretch:
        assert stretch.read() == data[PART_BYTES - 10 : PART_BYTES + 10]
    assert asked == [0, 1, 2]
