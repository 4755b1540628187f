"""Telemetry in Parquet: `writing` and `merging` make files, `manifest` says which count, `stores` keeps them."""
