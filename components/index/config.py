"""Settings of the index step."""

from typing import Literal

from pydantic import Field, PositiveInt

from components.contracts.config import StepConfig


class IndexConfig(StepConfig):
    """How the corpus is indexed and how the index is proven before anybody uses it."""

    index_kind: Literal["bm25"] = "bm25"
    """`bm25`: a Lucene inverted index made by Pyserini."""
    k1: float = Field(default=0.9, ge=0.0, le=10.0)
    """BM25 term saturation, applied when searching."""
    b: float = Field(default=0.4, ge=0.0, le=1.0)
    """BM25 length normalisation, applied when searching."""
    threads: PositiveInt | Literal["all"] = "all"
    """Indexing threads; each takes whole corpus files. `all`: every core this process may use."""
    optimize: bool = True
    """Merge the index into one segment: slower to build, faster to search."""
    store_positions: bool = False
    """Keep word positions (phrase queries); nothing here needs them."""
    store_docvectors: bool = False
    """Keep document vectors (relevance feedback); nothing here needs them."""
    heap: str = Field(default="2g", pattern=r"^[1-9]\d*[mg]$")
    """Largest Java heap while indexing."""
    golden_queries: int = Field(default=20, ge=0, le=200)
    """Passages drawn after the build; each must be found by its title and first words."""
    golden_top_k: int = Field(default=10, ge=1, le=1000)
    """A drawn passage counts as found among so many hits."""
    golden_min_frac: float = Field(default=0.9, ge=0.0, le=1.0)
    """Share of drawn passages that must be found; below it the step fails."""
