"""Run parameters as the resolve step takes them."""

from typing import Literal

from pydantic import Field

from components.contracts.config import StepConfig


class ResolveConfig(StepConfig):
    """What a person fills in to start a run; an empty text keeps what the preset says."""

    preset: str = Field(default="small-world", min_length=1)
    """Name of a bundled preset, or the path of a TOML file laid out like one."""
    corpus_uri: str = ""
    """Corpus to search; sets `corpus.uri`."""
    questions_uri: str = ""
    """Folder of question files; sets `questions.uri`."""
    base_model: str = ""
    """Model that training starts from; sets `base_model.source`."""
    model_name: str = Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9 ._-]*)?$")
    """Name of the registered model; sets `register.model_name`."""
    seed: int = Field(default=1, ge=0, le=2**31 - 1)
    """Given to every step that has a `seed`, unless the preset or an override sets that one."""
    storage_root: str = Field(default="s3://searchr1", pattern=r"^(file:///.+|s3://[a-z0-9].+)$")
    """Where data and results live: `s3://bucket/prefix` or `file:///folder`."""
    only_new_corpus: Literal["no", "yes"] = "no"
    """`yes` ends the run here when the champion, or a challenger it was preferred to, was trained on this corpus."""
    overrides: str = ""
    """`task.key=value`, separated by commas, semicolons or newlines; laid over the preset and the fields above."""
