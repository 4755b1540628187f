"""`python -m workers roles`, or one of `CHOICES`; `--help` says what each is."""

import logging
import sys
from typing import Final

import uvloop

from events.settings import SettingsError, from_environment

CHOICES: Final = {
    "roles": "all of the following but gpu, in one process",
    "relay": "events to NATS JetStream",
    "projector": "asynchronous projections: credits, metric summaries, search",
    "archiver": "telemetry to Parquet; purges of deleted runs",
    "scheduler": "queued runs to GPU workers",
    "monitor": "silent runs and workers are found",
    "sweeper": "the trials of sweeps",
    "alerter": "alert rules and webhooks",
    "heads": "signed heads of the ledgers, kept elsewhere",
    "gpu": "the GPU worker: runs programs on this machine",
}
USAGE: Final = f"usage: python -m workers {{{','.join(CHOICES)}}}"


def main(arguments: list[str]) -> int:
    """Run what the command line names; returns the exit status. Each choice loads only what it needs."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if arguments in (["-h"], ["--help"]):
        print(USAGE, *(f"  {choice:<10} {what}" for choice, what in CHOICES.items()), sep="\n")
        return 0
    if len(arguments) != 1 or arguments[0] not in CHOICES:
        print(USAGE, file=sys.stderr)
        return 2
    (choice,) = arguments
    if choice == "gpu":
        from workers.gpu.agent import main as gpu_worker  # noqa: PLC0415

        return gpu_worker()
    from workers import crashpoints  # noqa: PLC0415
    from workers.roles import ROLES, run_roles  # noqa: PLC0415

    try:
        crashpoints.check()
        uvloop.run(run_roles(list(ROLES) if choice == "roles" else [choice], from_environment()))
    except (SettingsError, FileNotFoundError) as error:
        print(f"tachograph: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
