"""What a checkpoint tells about its training: the metrics of every step and a few episodes; its weights stay closed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from components.contracts.errors import ManifestError
from components.contracts.manifest import Manifest
from components.report.episodes import EpisodeView
from components.storage import fetch
from components.tracking import METRICS_NAME, read_metrics

_ROLLOUTS = "rollouts/"


@dataclass(frozen=True)
class TrainingRecord:
    """The training behind a checkpoint, in step order."""

    metrics: Sequence[dict[str, float]]
    episodes: Sequence[EpisodeView]


def training_record(checkpoint: Manifest) -> TrainingRecord:
    """Return the record stored with `checkpoint`; a checkpoint that kept no episodes has none.

    Raises:
        ManifestError: a file is missing, changed or malformed.
        StorageError: the storage refuses.
    """
    folder = fetch(checkpoint, wanted=lambda path: path == METRICS_NAME or path.startswith(_ROLLOUTS))
    paths = sorted(entry.path for entry in checkpoint.files if entry.path.startswith(_ROLLOUTS))
    episodes = []
    for path in paths:
        try:
            found = json.loads((folder / path).read_text(encoding="utf-8"))
            episodes += [EpisodeView.model_validate(view) for view in found]
        except (ValidationError, ValueError, TypeError) as error:
            raise ManifestError(f"{checkpoint.uri}/{path} holds no episodes: {error}", "a list of episodes") from None
    return TrainingRecord(read_metrics(folder / METRICS_NAME), episodes)
