"""Every long-running process besides the API. A role does bounded work in `step`; `loop` runs it; one copy is active.

How roles run
    loop              start, step, stop
    elected           one active, others stand by
    roles             all of them in one process
    crashpoints       where tests kill a role
    outage            a store that is away

From the ledger to elsewhere
    relay             events -> JetStream
    projector         asynchronous projections
    archiver          telemetry -> Parquet
    archive_policy    when, how large, how long
    archive_tail      what is not yet in Parquet
    archive_files     a file becomes part of the record
    merger            small files -> large ones
    partitions        tables of telemetry by the hour
    heads             signed heads -> files
    purge             deleted runs leave every store
    artifact_sweep    stale uploads
    run_messages      a run's messages in JetStream

Runs
    scheduler         queued runs -> workers
    placement         which run goes where (pure)
    orders            start and kill, by message
    balances          whose credits are used up
    retries           runs that follow failed ones
    heartbeats        beats of workers and processes, as they come over NATS
    monitor           silence -> crashed
    mass_silence      is it our own fault? (pure)
    lost_workers      workers that fell silent
    sweeper           trials of sweeps
    proposals         the next trial's parameters

Telling people
    alerter           rules -> firings
    deliveries        webhooks that are due
    webhooks          one signed request

    gpu/              the GPU worker: a client, on machines of its own
"""
