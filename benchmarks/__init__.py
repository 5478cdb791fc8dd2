"""Measured comparisons with peers: one command each (`make bench-<name>`), JSON into `results/`."""
