"""Runs that ended elsewhere, brought here: from our own archives, and from what other trackers leave behind."""
