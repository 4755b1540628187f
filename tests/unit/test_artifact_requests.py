"""Ranges, names, media types and digests of files, as requests say them."""

import hashlib
from base64 import b64encode

import pytest

from service.artifact_names import announced_sha256, clean_media_type, clean_name, digest_header, disposition
from service.http import ranges
from service.http.ranges import Range
from service.problems import Invalid

ETAG = '"abc"'


@pytest.mark.parametrize(
    ("header", "size", "expected"),
    [
        (None, 10, None),
        ("bytes=0-3", 10, Range(0, 3)),
        ("bytes=0-", 10, Range(0, 9)),
        ("Bytes = 3-99", 10, Range(3, 9)),
        ("bytes=-4", 10, Range(6, 9)),
        ("bytes=-40", 10, Range(0, 9)),
        ("bytes=4-3", 10, None),
        ("bytes=-", 10, None),
        ("bytes=0-1,3-4", 10, None),
        ("lines=0-1", 10, None),
        ("bytes=a-b", 10, None),
        ("bytes=0-" + "9" * 40, 10, None),
    ],
)
def test_a_range_is_read_as_the_standard_says(header: str | None, size: int, expected: Range | None) -> None:
    assert ranges.wanted(header, None, ETAG, size) == expected
    assert ranges.wanted(header, ETAG, ETAG, size) == expected
    assert ranges.wanted(header, '"another"', ETAG, size) is None


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=11-12", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
)
def test_a_range_behind_the_end_cannot_be_satisfied(header: str, size: int) -> None:
    with pytest.raises(ranges.Unsatisfiable):
        ranges.wanted(header, None, ETAG, size)


@pytest.mark.parametrize(
    ("header", "known"),
    [(None, False), (ETAG, True), (f"W/{ETAG}", True), (f'"x", {ETAG}', True), ("*", True), ('"x"', False)],
)
def test_a_version_that_is_known_is_recognised(header: str | None, known: object) -> None:
    assert ranges.matches(header, ETAG) is known


@pytest.mark.parametrize("name", ["a", "/a/b/", "a b", "..a", "a..", "日本/é", "x" * 250, "é" * 125])
def test_names_are_taken_as_they_are(name: str) -> None:
    assert clean_name(name) == name.strip("/")


@pytest.mark.parametrize(
    "name",
    ["", "/", ".", "..", "a/../b", "a/./b", "a//b", "a\\b", "a\nb", "a\x00", "\x7f", "x" * 251, "é" * 126, "\ufffd",
     "\u202egnp.exe"],
)  # fmt: skip
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        clean_name(name, "$.name")
    assert caught.value.path == "$.name"


@pytest.mark.parametrize("text", ["text/plain", "text/plain; charset=utf-8", 'a/b; c="d e"', "application/vnd.a+json"])
def test_media_types_are_taken_as_they_are(text: str) -> None:
    assert clean_media_type(text) == text
    assert clean_media_type(None) == clean_media_type("") == "application/octet-stream"


@pytest.mark.parametrize("text", ["text", "text/", "a/b\r\nx: y", "a/b;", "a/b; c", "a/" + "b" * 126, "ä/b"])
def test_what_is_no_media_type_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        clean_media_type(text)


def test_a_digest_is_read_as_it_is_written() -> None:
    sha256 = hashlib.sha256(b"x").hexdigest()
    assert announced_sha256({"repr-digest": digest_header(sha256)}) == sha256
    assert announced_sha256({"content-digest": f"sha-512=:AA==:, {digest_header(sha256)}"}) == sha256
    assert announced_sha256({}) is None
    short = b64encode(b"x" * 31).decode()
    for bad in ("", "sha-256=::", f"sha-256=:{short}:", "md5=:AA==:", f"sha-256={'A' * 44}"):
        with pytest.raises(Invalid):
            announced_sha256({"repr-digest": bad})


def test_a_file_is_saved_under_its_last_name() -> None:
    assert disposition('a/"b"\r\n;.bin') == "attachment; filename*=UTF-8''%22b%22%0D%0A%3B.bin"
