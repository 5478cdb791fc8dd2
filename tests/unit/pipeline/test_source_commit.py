"""The commit that results are labelled with: the whole one, marked where the tree is another, or none at all."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import source

GIT = ["git", "-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]


def commit_told(folder: Path, monkeypatch, **environment: str) -> str:
    """Return what a copy of the module in `folder` says."""
    shutil.copy(source.__file__, folder / "source.py")
    # pytest's own folder may lie inside a repository.
    for name, value in ({"GIT_CEILING_DIRECTORIES": str(folder.parent)} | environment).items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-B", "-c", "import source; print(source.git_commit())"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    shutil.copy(source.__file__, folder / "source.py")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"], ["tag", "-am", "v", "v1"]):
        subprocess.run([*GIT, *words], cwd=folder, check=True)
    return folder


def head_of(folder: Path) -> str:
    return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=folder, text=True).strip()


def test_a_clean_tree_is_its_commit_whatever_its_tags(repository, monkeypatch):
    assert commit_told(repository, monkeypatch) == head_of(repository)


def test_a_changed_tree_is_not_called_its_commit(repository, monkeypatch):
    (repository / "other.py").write_text("")
    subprocess.run([*GIT, "add", "."], cwd=repository, check=True)
    assert commit_told(repository, monkeypatch) == f"{head_of(repository)}-dirty"


def test_without_a_repository_or_git_no_commit_is_known(repository, tmp_path, monkeypatch):
    (tmp_path / "plain").mkdir()
    assert commit_told(tmp_path / "plain", monkeypatch) == "unknown"
    assert commit_told(repository, monkeypatch, PATH="") == "unknown"
