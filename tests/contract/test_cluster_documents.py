"""What the documents say about the command line is so: commands parse as written, the keys of JSON are those listed."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from pipeline.cli import _parser, main
from pipeline.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", "docs/cluster-commands.md", "docs/guides/kubernetes.md", "docs/guides/presets.md"]
TEXT = (ROOT / "docs/cluster-commands.md").read_text()
SPEC = {"root": {"inputDefinitions": {"parameters": {"p01_preset": {}}}, "dag": {"tasks": {"train": {}}}}}


def commands_of(document: str) -> list[str]:
    text = (ROOT / document).read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if re.match(r"(\.venv/bin/)?searchr1 [a-z]", line)]


@pytest.mark.parametrize(
    "line", sorted({line for document in DOCUMENTS for line in commands_of(document)}), ids=lambda line: line[:70]
)
def test_commands_parse_as_written(line):
    _, *words = shlex.split(line, comments=True)
    if "--help" not in words:
        assert _parser().parse_args(words).command


def test_there_are_commands_to_parse():
    assert all(len(commands_of(document)) >= 4 for document in DOCUMENTS)


def documented(row: str) -> set[str]:
    line = next(line for line in TEXT.splitlines() if line.startswith(f"| {row} |"))
    return set(re.findall(r"`(\w+)`", line.split(" | ", 1)[1])) - {"status", "tasks"}


def keys_of(capsys, *words) -> set[str]:
    main([*words, "--json"])
    told = json.loads(capsys.readouterr().out)
    inner = told.get("schedules") or told.get("requests") or [{}]
    return set(told) | (set(inner[0]) if inner else set())


@pytest.fixture
def package(kfp_server, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(SPEC))
    Cluster().upload(path, "search-r1", "")
    return path


def test_keys_of_json_are_those_listed(package, capsys):
    assert keys_of(capsys, "upload", "--file", str(package)) == documented("`upload`")
    assert keys_of(capsys, "submit") == documented("`submit`")
    assert keys_of(capsys, "status") == documented("`status`") | {"tasks"}
    main(["status", "--json"])
    assert set(json.loads(capsys.readouterr().out)["tasks"][0]) == documented("`status`, one of `tasks`")
    assert keys_of(capsys, "logs", "latest", "--failed") <= documented("`logs`")
    assert keys_of(capsys, "cancel", "latest", "--yes") == documented("`cancel`")
    assert keys_of(capsys, "schedule", "--every", "6h", "--name", "n") == documented("`schedule`")
    assert keys_of(capsys, "schedule", "--list") == documented("`schedule --list`")
    assert keys_of(capsys, "submit", "--dry-run") == documented("any, with `--dry-run`")
    assert keys_of(capsys, "schedule", "--delete", "n") == documented("`schedule --disable`, `--enable`, `--delete`")
