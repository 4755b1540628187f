"""Runs as the API makes, names, repeats and deletes them."""
