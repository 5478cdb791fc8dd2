"""Records and numbers every step agrees on; depends on the standard library, numpy and pydantic only."""
