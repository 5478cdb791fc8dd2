"""Settings of the questions step."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, StringConstraints

from components.contracts.config import StepConfig
from components.contracts.question import SEVEN_SETS

SetNames = tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")], ...]
KindNames = tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+/[A-Za-z0-9_-]+$")], ...]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class QuestionsConfig(StepConfig):
    """Where questions come from and how they are split."""

    uri: str = Field(default="world://small?seed=7", min_length=1)
    """Folder of question files (a path, `s3://`, `hf://datasets/owner/name[@revision]`) or `world://`.

    Name a commit as the revision: a branch is read as it is when the step runs, and the manifest says which."""
    train_uri: str = ""
    """Folder of the training sets when it is another one (the ready-made Parquet); empty text: the same."""
    source_sha256: dict[str, Sha256] = {}
    """Expected SHA-256 of source files by the relative name they have in their folder; others are not checked.
    Of a name that both folders have, `train_uri:NAME` is the file of `train_uri`."""
    test_sets: SetNames = Field(default=SEVEN_SETS, min_length=1)
    """Sets to evaluate on; of each the test file is used, else the dev file, else the train file."""
    train_sets: SetNames = ("nq", "hotpotqa")
    """Sets to train on; none gives files for evaluation only."""
    absent_sets: Literal["error", "skip"] = "error"
    """What happens when the source has no file of a set named above; skipped ones are named in the manifest."""
    train_kinds: KindNames = ("hotpotqa/bridge",)
    """`set/kind`: of a set named here, only questions whose metadata says one of its kinds are trained on.
    A set whose questions say no kind is not filtered."""
    max_test_questions: PositiveInt | Literal["all"] = "all"
    """Questions kept of each test set."""
    max_train_questions: PositiveInt | Literal["all"] = "all"
    """Questions kept of each training set."""
    dev_questions: int = Field(default=120, ge=0)
    """Questions of each training set kept apart to choose checkpoints: of its dev file, else cut from train."""
    split_seed: int = Field(default=42, ge=0)
    """Draws dev questions and those kept under a limit; a run's own seed does not change them."""
    leaked: Literal["remove", "error"] = "remove"
    """What happens to a training or dev question whose text is also a test question."""
    max_malformed_rows: int = Field(default=0, ge=0)
    """So many malformed rows of a file are left out with a warning; one more stops the step."""
    source_version: str = Field(default="", pattern=r"^[0-9a-f]{0,64}$")
    """What the sources held when the run began; set by the resolve step, so that no cache serves older content."""
