"""What can happen, and the one place where it is recorded. Imports nothing of ours; see CONTRIBUTING.md for the layers.

What can happen: event Structs and the values in them (pure)
    types             values that events share
    run_events        events of runs
    organisation      projects, keys, workers
    workflow          workflows, with `evolve`
    sweep             sweeps, with their table of transitions and `evolve`
    billing           credits and prices, with `evolve`
    alerts            alert rules and webhooks
    telemetry         columnar batches of metrics and logs
    beats             messages to and from workers
    vocabulary        statuses in the words of other trackers

What may happen to a run (pure)
    commands          what can be asked
    transitions       the state machine, as one table
    decisions         command -> events
    oversight         the same for monitor, scheduler, operator
    run               its state; event -> next state
    refusals          how a refusal is worded
    retries           whether a run is repeated
    progress          rate and time left
    run_names         names of runs
    search_space      what a sweep searches
    trials            a sweep's runs
    accelerators      which kind satisfies which
    merge_patch       JSON merge patches

The record: events in PostgreSQL, chained by hashes, encrypted
    ledger            append and read: start here
    records           what goes in and comes out
    commit            many appends, one transaction
    statements        the SQL of such a group
    wire              a sealed event as PostgreSQL receives it
    verdicts          each caller's own result
    codec             bytes, hashes, old versions of events
    packing           LZ4
    repetition        is this the same request again?
    keys              one data key a stream
    ids               UUIDv7 and UUIDv5
    verification      is the record unchanged?
    heads             signed chain heads
    recent            states this process saw last
    turns             callers of one stream queue up
    errors            what can go wrong, as a tree
    sql/              one file an operation

The transport, and what every process needs
    bus               publishing to JetStream
    streams           every stream and consumer, declared
    cloudevents       events as CloudEvents
    database          the connection pool
    settings          environment variables
    supervised        tasks that begin again when they fail
    complaints        what goes wrong again and again, logged once
    garbage           how the garbage collector is set
"""
