"""The run parameters: what a person fills in to start a run, in a form or on a command line.

The Kubeflow form shows names in alphabetical order and nothing else, hence the numbered names. Bounds are
enforced by the resolve step (kfp.local checks none); a contract test keeps both lists equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from components.contracts.config import presets_in


@dataclass(frozen=True)
class Parameter:
    """One field of the form."""

    name: str
    default: str | int
    help: str
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None

    @property
    def short_name(self) -> str:
        """The name without its ordering prefix, as the resolve step and the command line know it."""
        return self.name.partition("_")[2]


PRESET = Parameter(
    "p01_preset",
    "small-world",
    "Model, algorithm and hardware in one name. small-world: a tiny model in a made-up world, CPU, minutes.",
    choices=tuple(presets_in(files("pipeline") / "presets")),
)
CORPUS_URI = Parameter(
    "p02_corpus_uri",
    "",
    "Corpus to search: JSONL, Parquet or a folder of texts (file://, s3://, https://, hf://, world://). "
    "Empty: the preset's.",
)
QUESTIONS_URI = Parameter(
    "p03_questions_uri",
    "",
    "Folder of question files in the FlashRAG layout (same kinds of address). Empty: the preset's.",
)
BASE_MODEL = Parameter(
    "p04_base_model",
    "",
    "Model that training starts from: hf://owner/name[@revision], s3://bucket/folder, bundled://small-world. "
    "Empty: the preset's.",
)
MODEL_NAME = Parameter("p05_model_name", "", "Name of the registered model in MLflow. Empty: the preset's.")
SEED = Parameter("p06_seed", 1, "Seed of every step that draws random numbers.", minimum=0, maximum=2**31 - 1)
STORAGE_ROOT = Parameter(
    "p07_storage_root",
    "s3://searchr1",
    "Where data and results live: s3://bucket/prefix, or file:///folder on one machine.",
)
ONLY_NEW_CORPUS = Parameter(
    "p08_only_new_corpus",
    "no",
    "yes: end at once when the champion was trained on this corpus already. For scheduled runs.",
    choices=("no", "yes"),
)
OVERRIDES = Parameter(
    "p90_overrides",
    "",
    "Anything else: step.key=value, separated by commas, for example train.steps=50, index.threads=4.",
)

PARAMETERS: tuple[Parameter, ...] = (
    PRESET,
    CORPUS_URI,
    QUESTIONS_URI,
    BASE_MODEL,
    MODEL_NAME,
    SEED,
    STORAGE_ROOT,
    ONLY_NEW_CORPUS,
    OVERRIDES,
)
"""In the order of the form."""


def named(fields: Mapping[str, str | int]) -> dict[str, str | int]:
    """Return `fields` (by short name) under the names of the form; a parameter without a field keeps its default."""
    return {parameter.name: fields.get(parameter.short_name, parameter.default) for parameter in PARAMETERS}
