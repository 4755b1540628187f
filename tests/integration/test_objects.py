"""The object store, a directory and S3 alike: what was put is there and whole, what cannot be done is said."""

import logging
from pathlib import Path

import pytest

from events.settings import SettingsError
from projections.storage.objects import ObjectStore, StoreUnavailable
from stack.ports import free_port


async def listed(objects: ObjectStore, prefix: str) -> dict[str, int]:
    return {one.path: one.bytes async for page in objects.pages(prefix) for one in page}


async def test_what_was_put_is_there(objects: ObjectStore) -> None:
    await objects.check()
    data = bytes(range(256)) * 20_000
    await objects.put("a/b/1", data)
    await objects.put("a/b/2", b"")
    await objects.put("a/c/1", b"one")
    await objects.put("a/c/1", b"another")
    assert await objects.get("a/b/1") == data
    assert await objects.get("a/c/1") == b"another"
    assert await listed(objects, "a/") == {"a/b/1": len(data), "a/b/2": 0, "a/c/1": 7}
    assert await objects.measure("a/b/") == (2, len(data))
    await objects.remove("a/b/")
    await objects.remove("a/b/")
    assert await listed(objects, "a/") == {"a/c/1": 7}
    await objects.delete(["a/c/1", "a/c/2"])
    await objects.delete(["a/c/1", "a/c/2"])
    assert await objects.measure("a/") == (0, 0)
    with pytest.raises(FileNotFoundError):
        await objects.get("a/c/1")


async def test_what_was_created_is_not_written_over(objects: ObjectStore) -> None:
    assert await objects.create("heads/x/1", b"first")
    assert not await objects.create("heads/x/1", b"second")
    assert await objects.get("heads/x/1") == b"first"
    assert await listed(objects, "heads/") == {"heads/x/1": 5}


async def test_more_than_a_page_is_listed_and_removed(objects: ObjectStore) -> None:
    names = {f"many/{number:05d}" for number in range(1_050)}
    for name in sorted(names):
        if objects.name.startswith("s3"):
            await objects.put(name, b"x")
        else:
            path = Path(objects.name) / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x")
    assert set(await listed(objects, "many/")) == names
    await objects.remove("many/")
    assert await objects.measure("many/") == (0, 0)


async def test_a_store_that_is_away_is_said_without_its_credentials(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id-77aa")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-77aa")
    objects = ObjectStore.at("s3://nowhere")
    said = []
    for operation in (objects.check(), objects.put("a", b"b"), objects.get("a"), objects.measure("a/")):
        with pytest.raises(StoreUnavailable) as caught:
            await operation
        said.append(str(caught.value))
    assert "77aa" not in " ".join(said) + caplog.text
    assert "\n" not in "".join(said)


async def test_a_directory_that_went_away_is_said(tmp_path: Path) -> None:
    objects = ObjectStore.at(tmp_path / "objects")
    (tmp_path / "objects").rmdir()
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        await objects.check()


@pytest.mark.parametrize("place", ["gs://bucket", "s3://", "s3://key:secret-11@bucket/x", "http://somewhere/x"])
def test_a_place_that_is_none_is_refused(place: str) -> None:
    with pytest.raises(SettingsError, match="TACHOGRAPH_OBJECT_STORE") as caught:
        ObjectStore.at(place)
    assert "secret-11" not in str(caught.value)
