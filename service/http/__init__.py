"""HTTP as such: requests, encodings, ranges, long answers, and how bytes leave."""
