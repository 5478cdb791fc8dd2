"""Settings of the summary step; the resolve step fills them in."""

from components.contracts.config import StepConfig


class SummaryConfig(StepConfig):
    """Facts of the run that no manifest carries."""

    preset: str = "unknown"
    """Preset the run was started with."""
    seeds: dict[str, int] = {}
    """Task -> the seed it ran with."""
