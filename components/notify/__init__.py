"""Exit handler of a run: says how it ended, to people and to a webhook; never fails the run."""
