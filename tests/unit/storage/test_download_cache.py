"""One download for all processes of a machine, and no second reading of large files that are known."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.contracts.errors import ManifestError, UserError
from components.contracts.manifest import FileEntry, Manifest, ProducedBy, content_digest
from components.storage import fetch, publish, read_manifest
from components.storage.cache import cache_folder, download, record_beside
from components.storage.verification import SMALLEST_REMEMBERED_BYTES, Verification

PRODUCED_BY = ProducedBy(step="index", version="1", git_commit="abc", config_sha256="0")
CONTENTS = {"a": b"one", "b": b"two", "c": b"three"}
ENTRIES = tuple(FileEntry(path=n, size=len(c), sha256=hashlib.sha256(c).hexdigest()) for n, c in CONTENTS.items())
MANIFEST = Manifest(
    kind="index", uri="s3://x/y", files=ENTRIES, digest=content_digest(ENTRIES), produced_by=PRODUCED_BY
)
FETCHING = """
import sys, time
from pathlib import Path
from tests.unit.storage.test_download_cache import CONTENTS, ENTRIES, MANIFEST
from components.storage.cache import download

class SlowStorage:
    def get_file(self, key, local):
        with open(sys.argv[2], "a") as log:
            log.write(key + "\\n")
        local.parent.mkdir(parents=True, exist_ok=True)
        unfinished = local.with_name(local.name + ".3f9aB2c1")
        unfinished.write_bytes(CONTENTS[key])
        time.sleep(float(sys.argv[3]))
        unfinished.rename(local)

print(download(MANIFEST, SlowStorage(), ENTRIES, Path(sys.argv[1]), "redo"))
"""


def start_fetching(folder: Path, log: Path, seconds_a_file: float) -> subprocess.Popen:
    command = [sys.executable, "-c", FETCHING, str(folder), str(log), str(seconds_a_file)]
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=environment)


def wait_for(path: Path) -> None:
    deadline_s = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_of_two_processes_one_downloads_and_both_are_served(tmp_path):
    folder, log = tmp_path / "index" / "0123", tmp_path / "log"
    processes = [start_fetching(folder, log, 0.3) for _ in range(2)]
    said = [process.communicate(timeout=30)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [text.splitlines()[-1] for text in said] == ["[]", "[]"]
    assert sorted(log.read_text().split()) == ["a", "b", "c"]
    assert files_in(folder) == CONTENTS


def test_what_a_killed_process_left_is_completed_and_cleared_away(tmp_path):
    folder, log = tmp_path / "index" / "0123", tmp_path / "log"
    killed = start_fetching(folder, log, 60)
    wait_for(folder / "a.3f9aB2c1")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    second = start_fetching(folder, log, 0)
    assert second.communicate(timeout=30)[0] == "[]\n"
    assert files_in(folder) == CONTENTS


class BrokenStorage:
    def get_file(self, key, local):
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(b"other")

    def uri(self, key):
        return f"s3://x/y/{key}"


def test_who_has_no_lock_clears_nothing_away(tmp_path):
    """What lies there may be what another process is loading just now."""
    folder = tmp_path / "index" / "0123"
    folder.with_name("0123.lock").mkdir(parents=True)
    folder.mkdir()
    (folder / "a.3f9aB2c1").write_bytes(b"o")
    download(MANIFEST, BrokenStorage(), ENTRIES, folder, "redo")
    assert (folder / "a.3f9aB2c1").read_bytes() == b"o"


def test_wrong_bytes_of_a_download_are_named(tmp_path):
    problems = download(MANIFEST, BrokenStorage(), ENTRIES, tmp_path / "index" / "0123", "redo")
    assert problems == [
        "a has 5 bytes instead of 3",
        "b has 5 bytes instead of 3",
        "c has changed (its SHA-256 differs)",
    ]


def test_a_cache_that_cannot_be_written_says_so(s3_root, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("one")
    manifest = publish(tmp_path / "data", storage_root=s3_root, kind="index", produced_by=PRODUCED_BY)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="Cannot use"):
        fetch(manifest, tmp_path / "file" / "cache")


@pytest.fixture
def large(tmp_path) -> tuple[Path, FileEntry]:
    path = tmp_path / "folder" / "large"
    path.parent.mkdir()
    path.write_bytes(bytes(SMALLEST_REMEMBERED_BYTES))
    digest = hashlib.sha256(bytes(SMALLEST_REMEMBERED_BYTES)).hexdigest()
    os.utime(path, (1e9, 1e9))
    return path, FileEntry(path="large", size=SMALLEST_REMEMBERED_BYTES, sha256=digest)


def change_in_place(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.write(b"x")


def restore_time(path: Path) -> None:
    os.utime(path, (1e9, 1e9))


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"x" + bytes(SMALLEST_REMEMBERED_BYTES - 1))
    other.rename(path)
    restore_time(path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param([], "", id="nothing"),
        pytest.param([change_in_place, restore_time], "", id="not read again while size and time stand"),
        pytest.param([change_in_place], "has changed", id="written in place"),
        pytest.param([replace], "has changed", id="replaced with the time kept"),
        pytest.param([lambda path: path.write_bytes(b"x")], "has 1 bytes", id="cut"),
        pytest.param([lambda path: path.unlink()], "is missing", id="deleted"),
    ],
)
def test_a_known_file_is_read_again_only_when_it_changed(large, changes, says):
    path, entry = large
    record = path.parent.with_name("folder.verified.json")
    first = Verification(path.parent, record)
    assert first.problem_with(entry) == ""
    first.save()
    for change in changes:
        change(path)
    assert (says in Verification(path.parent, record).problem_with(entry)) and record.is_file()
    if not says:
        assert Verification(path.parent, record).problem_with(entry) == ""


def test_a_known_file_is_read_again_for_a_manifest_that_wants_other_bytes(large):
    path, entry = large
    record = path.parent.with_name("folder.verified.json")
    first = Verification(path.parent, record)
    assert first.problem_with(entry) == ""
    first.save()
    wanted = entry.model_copy(update={"sha256": "0" * 64})
    assert "has changed" in Verification(path.parent, record).problem_with(wanted)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"large": 3}', "\x00"])
def test_a_broken_record_counts_as_none(large, content):
    path, entry = large
    record = path.parent.with_name("folder.verified.json")
    record.write_text(content)
    change_in_place(path)
    restore_time(path)
    assert "has changed" in Verification(path.parent, record).problem_with(entry)


def test_a_file_just_written_is_not_remembered(large):
    path, entry = large
    os.utime(path)
    record = path.parent.with_name("folder.verified.json")
    verification = Verification(path.parent, record)
    assert verification.problem_with(entry) == ""
    verification.save()
    assert not record.exists()


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_fetch_remembers_what_it_verified(large, kind, request, tmp_path):
    root = f"file://{tmp_path / 'root'}" if kind == "file" else request.getfixturevalue("s3_root")
    manifest = publish(large[0].parent, storage_root=root, kind="index", produced_by=PRODUCED_BY)
    path = fetch(manifest, tmp_path / "cache") / "large"
    restore_time(path)
    fetch(manifest, tmp_path / "cache")
    change_in_place(path)
    restore_time(path)
    assert fetch(manifest, tmp_path / "cache") == path.parent
    assert record_beside(path.parent).is_file() == (kind == "s3")
    change_in_place(path)
    if kind == "file":
        with pytest.raises(ManifestError, match="has changed"):
            fetch(manifest, tmp_path / "cache")
    else:
        fetch(manifest, tmp_path / "cache")
        assert path.read_bytes() == bytes(SMALLEST_REMEMBERED_BYTES)


@pytest.mark.parametrize("form", ["{uri}", "{uri}/", "{uri}/manifest.json"])
def test_a_manifest_is_read_from_its_folder_or_file(storage_root, form, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("one")
    manifest = publish(tmp_path / "data", storage_root=storage_root, kind="index", produced_by=PRODUCED_BY)
    assert read_manifest(form.format(uri=manifest.uri)) == manifest
    if manifest.uri.startswith("file://"):
        assert read_manifest(form.format(uri=manifest.uri.removeprefix("file://"))) == manifest


def test_a_user_without_a_home_has_a_cache_too(monkeypatch, tmp_path):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder().name == "searchr1-cache"
    monkeypatch.setenv("SEARCHR1_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path and cache_folder(tmp_path / "given") == tmp_path / "given"
