"""The Dockerfiles: linted, and held to what the images promise.

Runs in the environment of the manifests, which holds hadolint: make manifests-test.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("kubernetes_validate", reason="the Dockerfiles are tested by make manifests-test")

from manifests.validation.policies import image_complaint

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = {path.parent.name: path.read_text() for path in sorted((ROOT / "images").glob("*/Dockerfile"))}
SERVERS = {"mlflow"}
"""Images that are for one server only; the cpu image is a step or a server, as its command says."""


def instructions(text):
    """(instruction, rest) with continued lines joined and comments gone."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", lines)
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def complaints(name, text):
    found = instructions(text)
    stages = [n for n, (word, _) in enumerate(found) if word == "FROM"]
    final = found[stages[-1] :]
    base = dict(rest.partition("=")[::2] for word, rest in found[: stages[0]] if word == "ARG").get("BASE_IMAGE", "")
    lines = []
    if complaint := image_complaint(base):
        lines.append(f"base: {complaint}")
    if not all(rest.split()[0] in ("${BASE_IMAGE}", "build") for word, rest in found if word == "FROM"):
        lines.append("a stage on another base")
    if [rest for word, rest in final if word == "USER"] != ["10001:10001"]:
        lines.append("does not end as the user 10001")
    if not any("org.searchr1.sbom=" in rest for word, rest in final if word == "LABEL"):
        lines.append("has no label that leads to its bill of materials")
    if any(word == "HEALTHCHECK" for word, _ in final) != (name in SERVERS):
        lines.append("a health check is for servers, and for all of them")
    if any("PIP_" in rest for word, rest in final if word in ("ARG", "ENV")):
        lines.append("the final stage knows how pip reached its index")
    for word, rest in found:
        for install in re.findall(r"pip install[^&]*", rest) if word == "RUN" else []:
            if "-c constraints.txt" not in install and "--no-deps" not in install:
                lines.append(f"not pinned by constraints: {install}")
    if re.search(r"https?://(?!localhost)", text):
        lines.append("names a host")
    return lines


def test_there_is_one_image_for_each_set_of_dependencies():
    assert set(DOCKERFILES) == {"cpu", "gpu", "mlflow"}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfile_is_clean(name):
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "images" / name / "Dockerfile"], capture_output=True, text=True)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfile_keeps_the_rules(name):
    assert complaints(name, DOCKERFILES[name]) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        pytest.param(":3.11.14-slim-bookworm", "", "base: image", id="no tag"),
        pytest.param(":3.11.14-slim-bookworm", ":latest", "base: image tag 'latest' floats", id="floating base"),
        pytest.param("FROM build AS code", "FROM scratch AS code", "another base", id="other base"),
        pytest.param("USER 10001:10001", "USER root", "the user 10001", id="root"),
        pytest.param("org.searchr1.sbom", "org.searchr1.bill", "bill of materials", id="no bill"),
        pytest.param("USER 10001", "HEALTHCHECK CMD true\nUSER 10001", "is for servers", id="health check of a step"),
        pytest.param("ARG GIT_COMMIT=unknown", "ARG PIP_INDEX_URL", "final stage", id="index in the history"),
        pytest.param("pip install -c constraints.txt", "pip install", "not pinned", id="unpinned"),
        pytest.param("USER 10001", "ADD https://example.org/x /x\nUSER 10001", "names a host", id="download"),
    ],
)
def test_rule_can_fail(old, new, said):
    text = DOCKERFILES["cpu"]
    assert old in text
    assert said in "\n".join(complaints("cpu", text.replace(old, new, 1)))


def test_a_server_without_a_health_check_is_noticed():
    assert "for all of them" in "\n".join(
        complaints("mlflow", DOCKERFILES["mlflow"].replace("HEALTHCHECK", "LABEL x="))
    )


def test_an_image_is_made_from_listed_files_only():
    first, *allowed = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert first == "*"
    assert all(line.startswith("!") or line == "**/__pycache__" for line in allowed)


ENGINE = """#!/bin/sh
[ "$1" != pull ] && [ "$1 $2" != "image inspect" ] || exit 1
echo "$@" >> "$CALLS"
"""
"""A container engine that writes its command lines down and knows no image."""


def build(tmp_path, *arguments, **environment):
    engine = tmp_path / "engine"
    engine.write_text(ENGINE)
    engine.chmod(0o755)
    own = {"ENGINE": str(engine), "CALLS": str(tmp_path / "calls"), "REFERENCES": str(tmp_path / "images.env")}
    environment = {"PATH": os.environ["PATH"], **own, **environment}
    command = [ROOT / "images" / "build.sh", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    calls = (tmp_path / "calls").read_text() if (tmp_path / "calls").exists() else ""
    return done, calls


def test_build_writes_the_references_down(tmp_path):
    for tag in ("0.1.0", "0.2.0"):
        done, _ = build(tmp_path, "cpu", "mlflow", REGISTRY="registry.example/team", TAG=tag)
        assert done.returncode == 0, done.stderr
    assert sorted((tmp_path / "images.env").read_text().split()) == [
        "IMAGE_CPU=registry.example/team/searchr1-cpu:0.2.0",
        "IMAGE_MLFLOW=registry.example/team/searchr1-mlflow:0.2.0",
    ]


def test_build_keeps_the_address_of_an_index_off_the_command_line(tmp_path):
    done, calls = build(tmp_path, "cpu", TAG="0.1.0", PIP_INDEX_URL="https://user:password@index.example")
    assert done.returncode == 0
    assert "--build-arg PIP_INDEX_URL" in calls
    assert "password" not in calls + done.stdout


def test_build_takes_another_base(tmp_path):
    _, calls = build(tmp_path, "gpu", TAG="0.1.0", BASE_IMAGE="registry.example/python:3.11.14")
    assert "BASE_IMAGE=registry.example/python:3.11.14" in calls


@pytest.mark.parametrize("arguments", [[], ["--any-base"], ["nothing"]])
def test_build_of_no_known_image_is_refused(tmp_path, arguments):
    done, calls = build(tmp_path, *arguments)
    assert (done.returncode, calls) == (2, "")
    assert "Usage" in done.stderr


def test_build_without_an_engine_says_what_to_do(tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname"):
        (tools / name).symlink_to(shutil.which(name))
    done, _ = build(tmp_path, "cpu", ENGINE="", PATH=str(tools))
    assert done.returncode == 2
    assert "Neither docker nor podman answers" in done.stderr
