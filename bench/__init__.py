"""Benchmarks against peers and floors. `python -m bench P4` runs one; a module a benchmark, `harness` measures."""
