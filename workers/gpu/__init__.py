"""The GPU worker: one per machine, takes start commands, runs programs and tells the server the truth about them.

It is a client: facts go to the server over HTTP, commands and heartbeats over NATS, and there is no database. What
it must not forget lies on disk beside each run, so that killing it at any moment loses and doubles nothing:

    agent             composition, start and stop
    supervisor        one run, from claim to end
    commands          COMMANDS -> runs
    heartbeat         runs -> HEARTBEATS
    claiming          is the run ours?
    stages            inputs before, outputs after
    volumes           files in and out
    archives          code snapshots, unpacked
    process           shims: launch, kill, adopt
    shim              the tiny process that outlives the agent
    environment       the program's variables (pure)
    records           what is kept on disk
    shipping          output files -> log batches
    lines             bytes -> lines (pure)
    reporting         what the server is told
    answers           may it be asked again?
    outcome           exit -> status, cause, error (pure)
    accelerators      what the machine has
    slots             who may use it (pure)
    system_metrics    what runs use of it
    machine           what its runs share
    settings          environment variables
"""
