"""The HTTP API: thin routes over `events` and `projections`.

A route decodes a body, calls one function, and returns a Struct; errors become answers in one place, `problems`.

The process
    app               all parts put together
    server            uvicorn
    context           what every route needs
    auth              every request: who asks, and may they?
    keys              API keys and run tokens
    access            what a route needs, declared beside it
    key_rules         what an API key may be
    actors            names of keys, for people
    problems          errors -> HTTP, one table
    observability     /metrics
    glance            is Postgres there? answered without waiting for it
    openapi           the generated description
    commands/         `python -m service …`

What comes in
    bodies            request bodies and bounds
    recipes           what workflows and runs share
    patterns          what names look like
    expected          what a refused value could have been
    places            where a body was refused
    moments           `?at=`
    alert_conditions  what alerts may wait for
    artifact_names    names and media types of files
    sweeps            bodies and answers of sweeps
    ingest/           bodies of telemetry
    liveness          heartbeats over HTTP
    runs/             create, name, reproduce, delete
    imports/          archives, and other trackers

What goes out
    resources         runs, projects, workers
    paging            lists, page by page
    past              resources as of a moment
    tables            rows as CSV or Parquet
    charts/           curves
    stream            Server-Sent Events
    tails             who waits for a ledger to grow

    routes/           one module a resource
    http/             encodings, ranges, shortcuts, downloads
"""

from typing import Final

VERSION: Final = "0.1.0"
