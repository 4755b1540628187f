"""What the events add up to: tables that can be computed again from the ledger at any time, and questions to them.

Inline projections are written in the append's own transaction (so a reader sees its own writes), asynchronous ones
follow the ledger by position. docs/decisions/0006 says how; docs/glossary.md what the words mean.

Inline projections and their queries
    runs              state and transitions
    tenancy           organisations, workers, projects
    api_keys          API keys: issued, changed, revoked
    sessions          browsers that logged in (state of its own, no projection)
    workflows         recipes of runs
    sweeps            searches, and their trials
    subscriptions     alert rules and webhooks
    billing           an organisation's account

Asynchronous projections
    credits           what runs cost
    usage             credits by run, workflow, project and day
    metrics           a summary of each metric
    search/           filters, order, lists of runs
    archived_metrics  summaries when rebuilt from Parquet

Writing: from a command to its events
    execute           commands on runs
    changes           changes of anything else
    new_runs          creation under a free name
    claims            a worker's claim, within quotas

Keeping up, and doing again
    apply             how a projection keeps up
    rebuild           computed again, compared, swapped
    inline            inline ones, for a rebuild
    refold            live rows against a fresh fold
    verification      all checks of one ledger
    transport         JetStream's copy against the ledger

Telemetry and files
    archive/          telemetry in Parquet
    charts/           curves
    logs              lines of a run
    exported          points, lines, events as tables
    encoders          tables as CSV, Parquet, Arrow
    pack/             runs as an archive file
    storage/          object store, artifacts
    analytics         the process's DuckDB
    query/            SQL of users, walled in

History
    past              state as of a moment
    replay            events told in order
    republish         a range published again

What roles leave for others to see
    queue             why runs wait
    health            roles that are alive
    incidents         what an operator should see
    dead_letters      events that a reader cannot take
    firings           what alert rules fired
    import_jobs       imports of uploaded archives

    sql/              every query and SQL function of this package, one file an operation
"""
