"""Last step of a run: its result as people and programs read it."""
