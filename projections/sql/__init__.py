"""The SQL of the projections, one file an operation; `project_*.sql` are functions that appends call."""
