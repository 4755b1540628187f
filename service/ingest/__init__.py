"""Bodies of telemetry, from bytes of strangers to batches that may be kept."""
