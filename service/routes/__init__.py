"""One module a resource: its paths, and what each takes and answers."""
