"""What `python -m service …` does beside serving."""
