"""Charts as the API takes, answers and encodes them."""
