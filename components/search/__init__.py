"""Open an index by its manifest or a service by its address and ask it: the only way anybody searches."""
