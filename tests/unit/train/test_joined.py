"""A launcher that starts another number of ranks than configured is noticed before anything is trained."""

import pytest

from components.contracts.errors import ConfigError
from components.train.config import ParallelConfig
from components.train.ranks import joined, rank, world_size


@pytest.mark.parametrize(
    ("started", "configured"),
    [
        pytest.param(None, {"cpu_ranks": 2}, id="none"),
        pytest.param("1", {"gpus_per_node": 8}, id="one-of-eight"),
        pytest.param("8", {"num_nodes": 2, "gpus_per_node": 8}, id="one-node-of-two"),
        pytest.param("2", {}, id="more"),
    ],
)
def test_another_number_of_ranks_is_refused(monkeypatch, started, configured):
    """`accelerate launch` ignores PET_* and trains with one rank, in silence (kubeflow/trainer PR 3930)."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if started is not None:
        monkeypatch.setenv("WORLD_SIZE", started)
    parallel = ParallelConfig(**configured)
    says = f"asks for {parallel.num_ranks} ranks .* the launcher started {started or 1}"
    with pytest.raises(ConfigError, match=says), joined(parallel):
        pytest.fail("joined a world of the wrong size")


def test_one_process_alone_needs_no_launcher(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(ParallelConfig()):
        assert (rank(), world_size()) == (0, 1)
