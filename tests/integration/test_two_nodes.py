"""Two machines that a Kubeflow Trainer would start train as one; one of them is lost, and both come back.

The variables are the Trainer's, the machines are namespaces (see `machines`), the training is the real step.
"""

import json
import subprocess
import time
from pathlib import Path

import pytest

from components.contracts.manifest import Manifest
from components.storage import fetch
from components.tracking.metrics_file import read_metrics
from tests.integration import test_resume
from tests.integration.machines import Machine, Node, torchrun, trainer_variables, two_machines
from tests.integration.test_resume import SETTINGS, comparable, weights

inputs = test_resume.inputs
STEPS = 4
TWO_NODES = {"num_nodes": 2, "cpu_ranks": 1}
ONE_NODE = {"num_nodes": 1, "cpu_ranks": 2}
END_S = 60.0
"""Bound on how long a machine may outlive the one it trains with."""


@pytest.fixture(scope="module")
def machines():
    with two_machines() as found:
        yield found


def start(root: Path, inputs: dict[str, str], machines: list[Machine], parallel: dict) -> list[Node]:
    """Start a node on every machine; two ranks on the one there is when it is one."""
    root.mkdir(parents=True, exist_ok=True)
    settings = SETTINGS | {"steps": STEPS, "save_every_steps": 1, "parallel": parallel}
    (root / "config.json").write_text(json.dumps(settings))
    command = torchrun("components.train", "--config", str(root / "config.json"), "--storage-root", f"file://{root}")
    command += ["--output", str(root), *(f"--input={name}={path}" for name, path in inputs.items())]
    return [
        Node(machine, command, trainer_variables(machines, rank, parallel["cpu_ranks"]), root / f"node_{rank}.txt")
        for rank, machine in enumerate(machines)
    ]


def finish(root: Path, nodes: list[Node]) -> Manifest:
    for node in nodes:
        assert node.wait(timeout_s=300) == 0, node.output.read_text()[-3000:]
    return Manifest.read(root / "manifest.json")


def steps_logged(root: Path) -> int:
    return sum(len(file.read_bytes().splitlines()) for file in root.glob("work/train/*/metrics.jsonl"))


def lose(root: Path, nodes: list[Node], lost: int, after_lines: int) -> None:
    """Pull the plug of a machine once so many lines of metrics are written; the other one must end by itself."""
    while steps_logged(root) < after_lines:
        assert all(node.running() for node in nodes), nodes[0].output.read_text()[-3000:]
        time.sleep(0.05)
    nodes[lost].pull_the_plug()
    other = nodes[1 - lost]
    try:
        assert other.wait(timeout_s=END_S) not in (0, None)
    except subprocess.TimeoutExpired:
        other.pull_the_plug()
        raise
    assert not (root / "manifest.json").exists()


@pytest.fixture(scope="module")
def one_machine(inputs, machines, tmp_path_factory) -> Manifest:
    """What two ranks of one machine make."""
    root = tmp_path_factory.mktemp("one")
    return finish(root, start(root, inputs, machines[:1], ONE_NODE))


def check_equal(made: Manifest, expected: Manifest) -> None:
    assert weights(made) == weights(expected)
    records, found = (read_metrics(fetch(manifest) / "metrics.jsonl") for manifest in (expected, made))
    assert [record["step"] for record in found] == list(range(STEPS + 1))
    assert list(map(comparable, found)) == list(map(comparable, records))


def test_two_machines_end_with_the_bits_of_one_with_two_ranks(one_machine, inputs, machines, tmp_path):
    made = finish(tmp_path, start(tmp_path, inputs, machines, TWO_NODES))
    check_equal(made, one_machine)
    assert weights(made) != weights(Manifest.read(inputs["base_model"]))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("lost", "isolated"),
    [
        pytest.param(1, True, id="the second machine"),
        pytest.param(0, True, id="the machine of the rendezvous"),
        pytest.param(1, False, id="the second of two on loopback"),
    ],
)
def test_a_machine_lost_and_started_again_changes_no_bit(lost, isolated, one_machine, inputs, tmp_path):
    with two_machines(isolated) as machines:
        lose(tmp_path, start(tmp_path, inputs, machines, TWO_NODES), lost, after_lines=3)
        nodes = start(tmp_path, inputs, machines, TWO_NODES)
        made = finish(tmp_path, nodes)
    assert all("resuming from step" in node.output.read_text() for node in nodes)
    assert {record["attempt"] for record in read_metrics(fetch(made) / "metrics.jsonl")} == {1, 2}
    check_equal(made, one_machine)


def test_machines_have_networks_and_processes_of_their_own(machines):
    """So that equality above means two machines; on a computer without namespaces it means two torchruns."""
    if not machines[0].prefix:
        pytest.skip("no network namespaces here (they take root): the machines share this one's loopback")
    seen = []
    for machine in machines:
        command = [*machine.prefix, "sh", "-c", "echo $$; ip -brief address"]
        seen.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert all(text.startswith("1\n") for text in seen), "a machine's first process is its first process"
    for machine, other, text in zip(machines, reversed(machines), seen, strict=True):
        assert machine.address in text
        assert other.address not in text
