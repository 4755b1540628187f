"""Artifacts: files of a run, streamed in and out, and listed."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from litestar import HttpMethod, Response, Router, get, put, route
from litestar.exceptions import HTTPException, InternalServerException
from litestar.openapi import ResponseSpec
from litestar.params import Parameter
from litestar.response import Stream

from events.errors import NotFound
from projections.storage import artifacts
from projections.storage.artifacts import Artifact, Kind
from projections.storage.upload_writer import UploadCut, Wanted
from service.access import READ_FILES, READ_RUN, RECORD
from service.artifact_names import announced_sha256, clean_media_type, clean_name, digest_header, disposition
from service.context import Http, Service
from service.http import ranges
from service.openapi import BYTES, described
from service.paging import Page, Size, opened, page, sealed
from service.problems import Invalid, problem

MAX_CAPTION: Final = 1_000
_FILE: Final = described(answers=(BYTES,))
_PARTS: Final = {
    206: ResponseSpec(bytes, media_type=BYTES, description="The range that was asked for", generate_examples=False),
    304: ResponseSpec(None, description="`If-None-Match` names it"),
}

Caption = Annotated[str, Parameter(max_length=MAX_CAPTION, description="a sentence about it")]
AnswerHeaders = dict[str, str]


class _Place(msgspec.Struct):
    name: str
    position: int


class ArtifactResource(msgspec.Struct, frozen=True, kw_only=True):
    """A saved file; `sha256` is hexadecimal."""

    artifact_id: UUID
    run_id: UUID
    name: str
    kind: str
    bytes: int
    sha256: str
    media_type: str
    caption: str
    position: int
    saved_at: datetime


def resource(artifact: Artifact) -> ArtifactResource:
    """Return an artifact as the API shows it."""
    return ArtifactResource(**{name: getattr(artifact, name) for name in ArtifactResource.__struct_fields__})


@put(
    "/runs/{run:str}/artifacts/{name:path}",
    needs=RECORD,
    status_code=201,
    responses={200: ResponseSpec(ArtifactResource, description="It was there already", generate_examples=False)},
    operation_class=described(takes={BYTES: None}),
)
async def save_artifact(
    request: Http, service: Service, run: str, name: str, kind: Kind = "file", caption: Caption = ""
) -> Response[ArtifactResource]:
    """Save a file under a name, which may have folders in it; the body is its content, Content-Type its media type.

    `Repr-Digest: sha-256=:…:` is checked. The same content and description again changes nothing (200, not 201).
    """
    stored = await service.run(request, run)
    wanted = Wanted(
        name=clean_name(name),
        kind=kind,
        bytes=announced_length(request),
        media_type=clean_media_type(request.headers.get("content-type")),
        caption=caption,
        sha256=announced_sha256(request.headers),
    )
    async with service.uploads.transfer():
        artifact, new = await service.uploads.save(
            stored, request.user.organisation_id, wanted, body_of(request), request.user.actor
        )
    return Response(resource(artifact), status_code=201 if new else 200, headers=_headers(artifact))


@get("/runs/{run:str}/artifacts", needs=READ_RUN)
async def list_artifacts(
    request: Http,
    service: Service,
    run: str,
    kind: Kind | None = None,
    prefix: str = "",
    versions: bool = False,  # noqa: FBT001, FBT002 (a query parameter)
    limit: Size = 100,
    cursor: str | None = None,
) -> Response[Page[ArtifactResource]]:
    """A run's artifacts by name: the newest of each name, or with `versions` all of them, newest first."""
    stored = await service.run(request, run)
    place = opened(cursor, _Place) if cursor else None
    found = await artifacts.listed(
        service.pool,
        stored.ledger_id,
        stored.run_id,
        kind=kind,
        prefix=prefix,
        versions=versions,
        after=(place.name, place.position) if place else None,
        limit=limit + 1,
    )
    return page(request, [resource(one) for one in found], limit, lambda last: sealed(_Place(last.name, last.position)))


@route(
    "/runs/{run:str}/artifacts/{name:path}",
    needs=READ_RUN,
    http_method=[HttpMethod.GET, HttpMethod.HEAD],
    operation_class=_FILE,
    responses=_PARTS,
)
async def read_artifact(request: Http, service: Service, run: str, name: str) -> Response[Any]:
    """The newest file of this name: whole, or the `Range` that is asked for."""
    stored = await service.run(request, run)
    clean = clean_name(name)
    artifact = await artifacts.by_name(service.pool, stored.ledger_id, stored.run_id, clean)
    if artifact is None:
        raise NotFound(f"this run has no artifact {clean!r}")
    return await _answer(request, service, artifact)


@route(
    "/artifacts/{artifact:uuid}",
    needs=READ_FILES,
    http_method=[HttpMethod.GET, HttpMethod.HEAD],
    operation_class=_FILE,
    responses=_PARTS,
)
async def read_artifact_by_id(request: Http, service: Service, artifact: UUID) -> Response[Any]:
    """A file by its `artifact_id`, also one that a newer of its name has followed."""
    found = await artifacts.by_id(service.pool, request.user.organisation_id, artifact)
    if found is None or not request.user.sees(found.ledger_id):
        raise NotFound("there is no such artifact")
    await service.run(request, str(found.run_id))  # raises where that was deleted
    return await _answer(request, service, found)


async def _answer(request: Http, service: Service, artifact: Artifact) -> Response[Any]:
    headers = _headers(artifact)
    if ranges.matches(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(None, status_code=304, headers=headers)
    try:
        asked = ranges.wanted(
            request.headers.get("range"), request.headers.get("if-range"), headers["ETag"], artifact.bytes
        )
    except ranges.Unsatisfiable:
        size = {"Content-Range": f"bytes */{artifact.bytes}"}
        return problem(
            ranges.STATUS, "range-not-satisfiable", f"the file has {artifact.bytes} bytes", size, limit=artifact.bytes
        )
    first, last = (0, artifact.bytes - 1) if asked is None else (asked.first, asked.last)
    if asked is not None:
        headers["Content-Range"] = f"bytes {first}-{last}/{artifact.bytes}"
    headers["Content-Length"] = str(last - first + 1)
    status = 200 if asked is None else 206
    if request.method == HttpMethod.HEAD or artifact.bytes == 0:
        return Response(b"", status_code=status, media_type=artifact.media_type, headers=headers)
    body = _transferred(service, artifact, first, last)
    begun = await anext(body)  # what cannot be read is said before a status is
    return Stream(_chained(begun, body), status_code=status, media_type=artifact.media_type, headers=headers)


async def _transferred(service: Service, artifact: Artifact, first: int, last: int) -> AsyncIterator[bytes]:
    async with service.uploads.transfer():
        async for part in artifacts.content(service.ledger, service.objects, artifact, first, last):
            yield part


async def _chained(begun: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield begun
    async for part in rest:
        yield part


def _headers(artifact: Artifact) -> AnswerHeaders:
    """Return what is said of a file beside its content; a browser saves it, and runs nothing of it."""
    return {
        "ETag": f'"{artifact.sha256}"',
        "Repr-Digest": digest_header(artifact.sha256),
        "Accept-Ranges": "bytes",
        "Content-Disposition": disposition(artifact.name),
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-cache",
        "Tachograph-Artifact": str(artifact.artifact_id),
        "Tachograph-Position": str(artifact.position),
    }


def announced_length(request: Http) -> int:
    """Return how long the body is announced to be: room is reserved before the first byte is taken."""
    text = request.headers.get("content-length", "")
    if not text.isdecimal():
        raise HTTPException(status_code=411, detail="say how long the file is: Content-Length")
    return int(text[:16])


def upload_offset(request: Http) -> int:
    """Return where in the file the bytes of a piece belong. Raises `Invalid`."""
    offset = request.headers.get("upload-offset", "")
    if not offset.isdecimal() or len(offset) > 16:
        raise Invalid("say where these bytes belong: Upload-Offset is a number", path="Upload-Offset")
    return int(offset)


def check_piece(request: Http, left: int) -> None:
    """Raise `Invalid` where a piece is neither all that is left nor made of whole parts."""
    length = announced_length(request)
    if length % artifacts.PART_BYTES and length != left:
        raise Invalid(
            f"a piece that is not the last has a multiple of {artifacts.PART_BYTES} bytes, not {length}",
            path="Content-Length",
            limit=artifacts.PART_BYTES,
        )


async def body_of(request: Http) -> AsyncIterator[bytes]:
    """Yield the body as it comes. Raises `UploadCut` where its connection ends before it does."""
    try:
        async for chunk in request.stream():
            yield chunk
    except InternalServerException:
        raise UploadCut("the connection ended before the body did") from None


ROUTES = Router(
    path="",
    route_handlers=[
        save_artifact,
        list_artifacts,
        read_artifact,
        read_artifact_by_id,
    ],
    request_max_body_size=None,
    tags=["artifacts"],
)
