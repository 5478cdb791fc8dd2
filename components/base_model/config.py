"""Configuration of the base_model step."""

from pydantic import Field

from components.agent.config import LoopConfig
from components.contracts.config import StepConfig

MODEL_FILE_ENDINGS = (".json", ".safetensors", ".txt", ".jinja", ".model", ".md")


def is_model_file(name: str) -> bool:
    """Return whether a file of a model's folder is taken, by its relative name: no code, nothing pickled."""
    return "/" not in name and name.endswith(MODEL_FILE_ENDINGS)


class RecipeConfig(StepConfig):
    """The small-world recipe: how the bundled tiny model was made."""

    hidden_size: int = Field(default=96, ge=32, multiple_of=32)
    """Width; heads are 32 wide."""
    num_layers: int = Field(default=4, ge=1)
    intermediate_size: int = Field(default=192, ge=16)
    steps: int = Field(default=1_500, ge=1)
    """Optimizer steps."""
    rows_per_step: int = Field(default=64, ge=2)
    walk_frac: float = Field(default=0.25, ge=0, le=1)
    """Share of uninformed transcripts; the rest is reading comprehension."""
    two_hop_frac: float = Field(default=0.5, ge=0, le=1)
    """Share of two-document readings from `two_hop_from_frac` of the steps on."""
    two_hop_from_frac: float = Field(default=0.1, ge=0, le=1)
    max_distractors: int = Field(default=1, ge=0)
    """Documents shown beside the needed ones, from `distractors_from_frac` of the steps on."""
    distractors_from_frac: float = Field(default=0.05, ge=0, le=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    warmup_steps: int = Field(default=100, ge=0)
    seed: int = 0
    threads: int = Field(default=1, ge=1)


class BaseModelConfig(StepConfig):
    """Which base model a run starts from."""

    source: str = Field(default="bundled://small-world", min_length=1)
    """`bundled://small-world`, `recipe://small-world` (made anew), a local folder, `s3://bucket/folder`, or
    `hf://owner/name[@revision]`."""
    source_version: str = Field(default="", pattern=r"^[0-9a-f]{0,64}$")
    """What a folder held when the run began; set by the resolve step, so that no cache serves older content."""
    recipe: RecipeConfig = RecipeConfig()
    """Used by `recipe://small-world` only."""
    recipe_loop: LoopConfig = LoopConfig()
    """Format of the uninformed transcripts in the recipe."""
