"""A step that launches a training job and is killed meanwhile: `launching_process.py <storage root>`."""

import json
import sys

from components.contracts.step import Step
from components.train.config import TrainConfig
from components.train.trainjob_run import run_train_job
from tests.unit.train.trainjob_stories import PATIENCE, RESULT

if __name__ == "__main__":
    step = Step(
        "train", TrainConfig, lambda config, context: run_train_job(config, context, {"index": RESULT}, PATIENCE)
    )
    config = {"launch": {"backend": "trainjob"}, "parallel": {"num_nodes": 2}}
    step.execute(json.dumps({"storage_root": sys.argv[1], "code_sha256": "c" * 64, "config": config}), {}, {})
