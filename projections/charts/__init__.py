"""Curves: `questions` checks what is asked, `sources` decides where the numbers come from, `series` answers."""
