"""Settings of the corpus step."""

from pydantic import Field

from components.contracts.config import StepConfig


class CorpusConfig(StepConfig):
    """Where the corpus comes from and what is tolerated in it."""

    uri: str = Field(default="world://small?seed=7", min_length=1)
    """A file or folder (.jsonl, .jsonl.gz, .parquet), `https://`, `s3://`, `hf://datasets/...`, `world://`."""
    source_sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """Expected SHA-256 of the source when it is one file; empty text checks nothing."""
    max_malformed_lines: int = Field(default=0, ge=0)
    """So many malformed lines are left out with a warning; one more stops the step."""
    passages_per_file: int = Field(default=250_000, ge=1)
    """Passages in one output file; the index is built with at most one thread per file."""
    source_version: str = Field(default="", pattern=r"^[0-9a-f]{0,64}$")
    """What the source held when the run began; set by the resolve step, so that no cache serves older content."""
