"""Uploads in pieces: opened with what the file is to be, continued after any cut, an artifact once all is there.

The headers are those of the IETF's draft on resumable uploads: `Upload-Offset` says how much is durable.
"""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import HttpMethod, Response, Router, delete, patch, post, route
from litestar.openapi import ResponseSpec
from litestar.params import JSONBody
from msgspec import Meta

from events.errors import NotFound
from events.ids import derived, uuid7
from projections.storage import artifacts
from projections.storage.artifacts import Artifact, Kind
from projections.storage.upload_writer import Upload, Wanted
from service.access import RECORD
from service.artifact_names import clean_media_type, clean_name
from service.context import Http, Service, idempotency_key
from service.openapi import BYTES, described
from service.patterns import SHA256
from service.recipes import Body
from service.routes.artifacts import (
    MAX_CAPTION,
    AnswerHeaders,
    ArtifactResource,
    body_of,
    check_piece,
    resource,
    upload_offset,
)


class UploadResource(msgspec.Struct, frozen=True, kw_only=True):
    """An upload: go on from `offset`, in pieces of a multiple of `part_bytes`, until it has `bytes`.

    `artifact` is there once all is.
    """

    id: UUID
    offset: int
    bytes: int
    part_bytes: int = artifacts.PART_BYTES
    artifact: ArtifactResource | None = None


class NewUpload(Body, frozen=True):
    """A file to be uploaded in pieces."""

    name: str
    bytes: Annotated[int, Meta(ge=0, le=1 << 50)]
    kind: Kind = "file"
    media_type: str = ""
    caption: Annotated[str, Meta(max_length=MAX_CAPTION)] = ""
    sha256: Annotated[str, Meta(pattern=SHA256)] | None = None


@post("/runs/{run:str}/uploads", needs=RECORD, status_code=201)
async def open_upload(request: Http, data: JSONBody[NewUpload], service: Service, run: str) -> Response[UploadResource]:
    """Open an upload: its pieces go to `Location` by PATCH."""
    stored = await service.run(request, run)
    wanted = Wanted(
        name=clean_name(data.name, "$.name"),
        kind=data.kind,
        bytes=data.bytes,
        media_type=clean_media_type(data.media_type, "$.media_type"),
        caption=data.caption,
        sha256=data.sha256,
    )
    key = idempotency_key(request)
    upload_id = uuid7() if key is None else derived(request.user.actor, "upload", stored.run_id, key)
    upload = await service.uploads.open(stored, request.user.organisation_id, wanted, upload_id)
    location = {"Location": f"/api/v1/runs/{stored.run_id}/uploads/{upload_id}"}
    return _uploaded(upload, location, status=201)


@patch(
    "/runs/{run:str}/uploads/{upload:uuid}",
    needs=RECORD,
    responses={201: ResponseSpec(UploadResource, description="All is there, and saved", generate_examples=False)},
    operation_class=described(takes={BYTES: None}),
)
async def continue_upload(request: Http, service: Service, run: str, upload: UUID) -> Response[UploadResource]:
    """Send the bytes that follow `Upload-Offset`: a multiple of `part_bytes`, or all that is left.

    The answer says what is durable; the last piece saves the artifact (201). After a cut, ask where to go on.
    """
    stored = await service.run(request, run)
    offset = upload_offset(request)
    found = await service.uploads.find(stored, upload)
    if found is None:
        return _saved(await _saved_of(service, stored.ledger_id, stored.run_id, upload))
    check_piece(request, found.wanted.bytes - offset)
    async with service.uploads.transfer():
        received = await service.uploads.receive(found, offset, body_of(request))
        if received.received < received.wanted.bytes:
            return _uploaded(received, {})
        artifact, _ = await service.uploads.finish(received, request.user.actor)
    return _saved(artifact, upload, status=201)


@route("/runs/{run:str}/uploads/{upload:uuid}", needs=RECORD, http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def get_upload(request: Http, service: Service, run: str, upload: UUID) -> Response[Any]:
    """How far an upload is: `Upload-Offset`, and in the body."""
    stored = await service.run(request, run)
    found = await service.uploads.find(stored, upload)
    if found is not None:
        return _uploaded(found, {"Cache-Control": "no-store"})
    return _saved(await _saved_of(service, stored.ledger_id, stored.run_id, upload))


@delete("/runs/{run:str}/uploads/{upload:uuid}", needs=RECORD, status_code=204)
async def cancel_upload(request: Http, service: Service, run: str, upload: UUID) -> None:
    """Give an upload up; what came of it is removed."""
    stored = await service.run(request, run)
    found = await service.uploads.find(stored, upload)
    if found is not None:
        await service.uploads.discard(found)


async def _saved_of(service: Service, ledger_id: UUID, run_id: UUID, upload_id: UUID) -> Artifact:
    artifact = await artifacts.by_blob(service.pool, ledger_id, run_id, upload_id)
    if artifact is None:
        raise NotFound("there is no such upload, or it is over")
    return artifact


def _uploaded(upload: Upload, headers: AnswerHeaders, status: int = 200) -> Response[UploadResource]:
    answer = UploadResource(id=upload.upload_id, offset=upload.received, bytes=upload.wanted.bytes)
    return Response(answer, status_code=status, headers={**headers, "Upload-Offset": str(upload.received)})


def _saved(artifact: Artifact, upload_id: UUID | None = None, status: int = 200) -> Response[UploadResource]:
    answer = UploadResource(
        id=upload_id or artifact.blob_id, offset=artifact.bytes, bytes=artifact.bytes, artifact=resource(artifact)
    )
    return Response(answer, status_code=status, headers={"Upload-Offset": str(artifact.bytes)})


ROUTES = Router(
    path="",
    route_handlers=[open_upload, continue_upload, get_upload, cancel_upload],
    request_max_body_size=None,
    tags=["artifacts"],
)
