"""Settings of the register step: the model's name and what a new version must show."""

from pydantic import Field

from components.contracts.config import StepConfig


class RegisterConfig(StepConfig):
    """Gate of the registry: a floor for the first model, a paired comparison for every later one."""

    model_name: str = Field(default="search-r1", pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,199}$")
    """Name of the registered model in MLflow."""
    min_mean_em: float = Field(default=0.1, ge=0.0, le=1.0)
    """Exact match, averaged over the sets, that the first version must reach to become champion."""
    min_gain: float = Field(default=0.0, ge=0.0, le=1.0)
    """Lower end of the 95 % interval of the gain in averaged exact match must exceed this to replace a champion."""
    max_set_drop: float = Field(default=0.05, ge=0.0, le=1.0)
    """Largest fall in exact match that a single set may show against the champion."""
    bootstrap_resamples: int = Field(default=2000, ge=100, le=100_000)
    """Resamples behind the interval of the gain."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Of the bootstrap."""
    corpus_version: str = Field(default="", pattern=r"^[0-9a-f]{0,64}$")
    """Version of the corpus the run began with; set by the resolve step, a tag of the model version."""
