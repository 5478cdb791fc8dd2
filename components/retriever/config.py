"""Settings of the retriever service."""

from typing import Literal, Self

from pydantic import Field, model_validator

from components.contracts.config import StepConfig


class RetrieverConfig(StepConfig):
    """What is served, where, and how much of it anybody may ask for."""

    index_manifest_uri: str = ""
    """URI or path of the index's manifest or of its folder (an output of the index step). The environment variable
    `SEARCHR1_INDEX_MANIFEST_URI`, where it is set, says it instead."""
    host: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` in a pod."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one and prints it."""
    default_top_k: int = Field(default=3, ge=1, le=1000)
    """Passages for a query of a request that names no `topk`."""
    max_top_k: int = Field(default=100, ge=1, le=1000)
    """Largest `topk` of a request."""
    max_queries: int = Field(default=1024, ge=1, le=65536)
    """Queries of one request."""
    max_query_characters: int = Field(default=8192, ge=1)
    """Length of a query; the engine reads the first thousand."""
    max_body_bytes: int = Field(default=16 << 20, ge=1024)
    """Size of a request."""
    body_timeout_s: float = Field(default=10.0, gt=0)
    """Longest time a request may take to arrive."""
    max_waiting_queries: int = Field(default=8192, ge=1)
    """Queries under way at a time; a request beyond them is sent away with status 503."""
    deadline_s: float = Field(default=10.0, gt=0)
    """Longest time of a query between its arrival and its answer; then its request fails."""
    window_s: float = Field(default=0.003, ge=0, le=1)
    """How long the first query of a batch waits for company."""
    max_batch: int = Field(default=256, ge=1)
    """Queries that go to the engine at once."""
    cached_queries: int = Field(default=16384, ge=0)
    """Queries whose passages are remembered, for each of a few sizes of `topk`."""
    stuck_after_s: float = Field(default=120.0, gt=0)
    """A batch that is in the engine for longer makes `/healthz` fail, so that the pod is started anew."""
    shutdown_s: int = Field(default=45, ge=0)
    """After SIGTERM, how long answers under way may take; below the grace period of the pod."""
    exit_code_when_stopped: Literal[0, 143] = 0
    """Exit code after SIGTERM. A Job takes 0 for done and would not start an evicted retriever again: 143 there."""

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        if self.default_top_k > self.max_top_k:
            raise ValueError("default_top_k is larger than max_top_k")
        if self.max_queries > self.max_waiting_queries:
            raise ValueError("a request of max_queries would never fit into max_waiting_queries")
        return self
