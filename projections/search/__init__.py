"""Lists of runs: `filters` parses, `compiled` and `ordering` make SQL of it, `listing` finds a page."""
