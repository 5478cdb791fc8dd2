"""Where the ranks of a training are started, and what a rank leaves for whoever started it."""

import json
import os

import pytest
from torch.distributed.run import get_args_parser

from components.contracts.errors import ConfigError, MissingError
from components.contracts.manifest import Manifest, ProducedBy
from components.contracts.step import OUTPUT_NAMES, StepContext, StepResult
from components.train import node
from components.train.config import TrainConfig
from components.train.gpu_hours import with_gpu_hours
from components.train.job_folder import JobFolder
from components.train.launch import check_gpus, command, launch
from components.train.trainjob import SHUTDOWN_S

MANIFEST = Manifest(
    kind="checkpoint",
    uri="file:///x",
    files=(),
    digest="d",
    produced_by=ProducedBy(step="train", version="1", git_commit="c", config_sha256="0"),
)
CONTEXT = StepContext("train", "file:///data", "c" * 64, "d")


def config(**values) -> TrainConfig:
    return TrainConfig.parse(values)


def train_here() -> StepResult:
    return StepResult(MANIFEST, "card\n", {"dev_em": 0.5})


@pytest.mark.parametrize("backend", ["local", "step"])
def test_a_world_of_one_trains_in_this_process(backend):
    assert launch(config(launch={"backend": backend}), CONTEXT, {}, train_here) == train_here()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        pytest.param({"parallel": {"num_nodes": 2}}, ["num_nodes = 2", '"trainjob"'], id="two machines"),
        pytest.param(
            {"parallel": {"gpus_per_node": 16}}, ["shows 0 GPUs", 'train.launch.backend="trainjob"'], id="no GPU"
        ),
        pytest.param(
            {"parallel": {"gpus_per_node": 16}, "launch": {"backend": "step"}},
            ["shows 0 GPUs", "--gpus train=N"],
            id="no GPU on the step's pod",
        ),
    ],
)
def test_ranks_that_cannot_be_started_here_are_refused(values, says, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ConfigError) as raised:
        launch(config(**values), CONTEXT, {}, train_here)
    assert [text for text in says if text not in str(raised.value)] == []


def test_torchrun_leaves_ranks_of_one_machine_time_to_save_too():
    """By itself it kills them 30 s after SIGTERM: less than one rollout of the large presets."""
    _, module, name, *arguments = command(config(parallel={"cpu_ranks": 2}), "file:///job")
    assert (module, name) == ("-m", "torch.distributed.run")
    parsed = get_args_parser().parse_args(arguments)
    assert parsed.shutdown_timeout == SHUTDOWN_S
    assert (parsed.training_script, parsed.training_script_args) == ("components.train.node", ["file:///job"])


def test_what_gpus_took_is_on_the_card_and_among_the_numbers(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    priced = {"parallel": {"gpus_per_node": 1}, "launch": {"usd_per_gpu_hour": 1e9}}
    result = launch(config(**priced), CONTEXT, {}, train_here)
    assert set(result.metrics) == {"dev_em", "gpu_hours", "cost_usd"}
    assert result.metrics["cost_usd"] > 0
    assert "GPU-hours of this attempt" in result.card


@pytest.mark.parametrize(
    ("gpu_s", "usd", "metrics", "row"),
    [
        pytest.param(7200.0, 3.0, {"gpu_hours": 2.0, "cost_usd": 6.0}, "| cost of this attempt | $6.00 |", id="priced"),
        pytest.param(7200.0, 0.0, {"gpu_hours": 2.0}, "| GPU-hours of this attempt | 2.00 |", id="no price"),
        pytest.param(0.0, 3.0, {}, "", id="no GPU"),
    ],
)
def test_a_cost_is_hours_times_their_price(gpu_s, usd, metrics, row):
    result = with_gpu_hours(StepResult(MANIFEST, "card\n", {}), gpu_s, usd)
    assert result.metrics == metrics
    assert result.card.splitlines()[-1] == (row or "card")


def test_where_the_ranks_run_is_no_part_of_what_is_resumed():
    digests = {
        config(launch=launch).sha256()
        for launch in ({}, {"backend": "trainjob"}, {"backend": "step", "usd_per_gpu_hour": 2.0}, {"memory": "1Ti"})
    }
    assert len(digests) == 1
    assert digests != {config(seed=1).sha256()}


@pytest.mark.parametrize(
    "launch",
    [{"memory": "64GB"}, {"cpu": ""}, {"runtime": "Not_A_Name"}, {"backend": "pytorchjob"}, {"deadline_s": 0}],
    ids=lambda launch: next(iter(launch)),
)
def test_settings_kubernetes_would_refuse_are_refused_first(launch):
    with pytest.raises(ConfigError, match=f"train.launch.{next(iter(launch))}"):
        TrainConfig.parse({"launch": launch}, where="train")


@pytest.fixture
def job(tmp_path, monkeypatch) -> JobFolder:
    monkeypatch.setenv("SEARCHR1_ERROR_FILE", "")
    folder = JobFolder((tmp_path / "job").as_uri())
    folder.write_inputs(
        config(algorithm="grpo"), CONTEXT, dict.fromkeys(("base_model", "index", "questions"), MANIFEST)
    )
    return folder


def test_a_rank_that_fails_leaves_its_error_for_the_launcher(job):
    """Groups of one episode: the step refuses them before it has loaded anything."""
    with pytest.raises(SystemExit) as raised:
        node.main([job.uri])
    assert raised.value.code == 2
    record = job.error()
    assert (record["type"], record["exit_code"]) == ("ConfigError", 2)
    assert not job.has_result()


def test_a_result_that_lacks_a_part_is_none(job, tmp_path):
    """A launcher that comes again takes the job for finished once it finds the manifest."""
    (tmp_path / OUTPUT_NAMES["manifest"]).write_text("{}")
    with pytest.raises(MissingError):
        job.write_result(tmp_path)
    assert not job.has_result()


def test_the_first_failure_of_several_is_kept(job, monkeypatch):
    job.write_error(json.dumps({"type": "SearchError"}).encode())
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(SystemExit):
        node.main([job.uri])
    assert job.error()["type"] == "SearchError"


def test_the_first_rank_of_a_new_attempt_forgets_the_error_of_the_last(job, monkeypatch):
    job.write_error(json.dumps({"type": "SearchError"}).encode())
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SystemExit):
        node.main([job.uri])
    assert job.error()["type"] == "ConfigError"


def test_a_folder_without_settings_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as raised:
        node.main([(tmp_path / "empty").as_uri()])
    assert raised.value.code == 2
    assert "settings.json" in capsys.readouterr().err


@pytest.mark.parametrize(("gpus_per_node", "shown"), [(0, ""), (1, "0")])
def test_a_gpu_that_nobody_asked_for_is_hidden_from_model_engine_and_shards(monkeypatch, gpus_per_node, shown):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    check_gpus(TrainConfig.parse({"parallel": {"gpus_per_node": gpus_per_node}}))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == shown
