"""Run by test_vllm_groups.py under torchrun: the train step on two ranks that share one vLLM engine.

The argument is a file with the step's configuration, context and inputs; beside it each rank leaves what it ended with.
"""

import hashlib
import json
import sys
from pathlib import Path

from components.agent.engines.publishing import probe_ids
from components.contracts.manifest import Manifest
from components.contracts.step import StepContext
from components.train import main as train_step
from components.train.config import TrainConfig
from components.train.ranks import rank
from components.train.sharding import whole_parameters
from components.train.trainer import Trainer
from components.train.weights import own_logprobs


class WatchedTrainer(Trainer):
    """Leaves what this rank ended with."""

    folder: Path

    def run(self, state):
        state = super().run(state)
        ids = probe_ids(self.tokenizer, self.config.loop.max_context_tokens)
        digest = hashlib.sha256()
        for _, tensor in whole_parameters(self.learner.policy):
            digest.update(tensor.numpy().tobytes())
        found = {
            "weights": digest.hexdigest(),
            "scored_by_engine": self.engine.score(ids),
            "scored_by_trainer": own_logprobs(self.learner, ids),
            "client": type(self.client).__name__,
            "searches": self.client.stats.submitted,
        }
        (self.folder / f"rank_{rank()}.json").write_text(json.dumps(found))
        return state


def main(file: Path) -> None:
    given = json.loads(file.read_text())
    WatchedTrainer.folder = file.parent
    train_step.Trainer = WatchedTrainer
    config = TrainConfig.parse(given["config"])
    inputs = {name: Manifest.model_validate(value) for name, value in given["inputs"].items()}
    train_step.run(config, StepContext("train", given["storage_root"], "0" * 64, config.sha256()), **inputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
