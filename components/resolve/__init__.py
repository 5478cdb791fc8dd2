"""First step of a run: resolve and check every setting."""
