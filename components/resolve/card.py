"""The page of the resolve step in the Kubeflow UI: what the run was asked for, what it found, what follows."""

from components.resolve.config import ResolveConfig
from components.resolve.novelty import Novelty
from components.resolve.sources import Sources

_TITLES = {"train": "This run goes on", "known": "Nothing new: this run ends here"}


def card(config: ResolveConfig, sources: Sources, found: Novelty, mlflow_url: str, seconds: float) -> str:
    """Return the page as Markdown; what people typed stands in code spans, where it opens no link or tag."""
    rows = {
        "preset": _code(config.preset),
        "seed": str(config.seed),
        "in: corpus": _code(sources.corpus_uri),
        "corpus version": _code(sources.corpus_version or "unknown"),
        "storage root": _code(config.storage_root),
        "overrides": _code(config.overrides) if config.overrides else "none",
        "time": f"{seconds:.1f} s",
    }
    if mlflow_url:
        rows["MLflow"] = mlflow_url
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"# {_TITLES[found.decision]}\n\n{_code(found.reason)}\n\n| | |\n|---|---|\n{table}\n"


def _code(text: str) -> str:
    plain = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{plain}`"
