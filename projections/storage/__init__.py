"""The object store and what lies in it: artifacts, uploads, signed heads."""
