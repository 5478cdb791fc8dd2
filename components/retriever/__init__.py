"""The search service: an index behind HTTP, for the ranks of a training job and for clients of Search-R1's server."""
