"""Both backends keep the same promises; each names its boundary when it fails."""

import logging
import os
import tempfile
import threading
from pathlib import Path

import pytest

from components.contracts.errors import ManifestError, MissingError, StorageError, UserError
from components.storage import check_writable, open_storage
from components.storage.local import LocalStorage, disk


def test_objects_round_trip(storage_root: str, tmp_path: Path) -> None:
    storage = open_storage(storage_root)
    (tmp_path / "local.txt").write_text("hello")
    storage.put_file(tmp_path / "local.txt", "a/b.txt")
    assert storage.get_bytes("a/b.txt") == b"hello"
    storage.get_file("a/b.txt", tmp_path / "deep" / "copy.txt")
    assert (tmp_path / "deep" / "copy.txt").read_text() == "hello"
    assert storage.exists("a/b.txt")
    assert not storage.exists("a")
    assert (tmp_path / "local.txt").exists()
    assert open_storage(storage.uri("a")).get_bytes("b.txt") == b"hello"


def test_list_and_delete_by_folder(storage_root: str) -> None:
    storage = open_storage(storage_root)
    for key in ("index/ab/1", "index/ab/2/3", "index/abc/4", "other"):
        storage.put_bytes(b"xyz", key)
    assert [info.key for info in storage.list()] == ["index/ab/1", "index/ab/2/3", "index/abc/4", "other"]
    assert [(info.key, info.size) for info in storage.list("index/ab")] == [("index/ab/1", 3), ("index/ab/2/3", 3)]
    assert all(info.modified > 1.7e9 and info.etag for info in storage.list())
    storage.delete_prefix("index/ab")
    storage.delete("other")
    storage.delete("other")
    assert [info.key for info in storage.list()] == ["index/abc/4"]
    assert storage.list("nothing/here") == []


def test_etag_follows_the_bytes(storage_root: str) -> None:
    storage = open_storage(storage_root)
    etags = []
    for data in (b"one", b"eno"):
        storage.put_bytes(data, "key")
        if isinstance(storage, LocalStorage):
            # A clock that ticks: two writes within one tick of the file system's look alike.
            os.utime(storage.path("key"), (1e9 + len(etags), 1e9 + len(etags)))
        etags.append(storage.list()[0].etag)
    assert etags[0] != etags[1]


def test_put_if_absent_writes_once(storage_root: str) -> None:
    storage = open_storage(storage_root)
    assert storage.put_bytes(b"first", "pointer", if_absent=True)
    assert not storage.put_bytes(b"second", "pointer", if_absent=True)
    assert storage.get_bytes("pointer") == b"first"
    assert storage.put_bytes(b"third", "pointer")
    assert [(info.key, info.size) for info in storage.list()] == [("pointer", 5)]


def test_of_many_that_write_if_absent_one_wins(tmp_path: Path) -> None:
    storage, num_writers = LocalStorage(tmp_path), 8
    start, won = threading.Barrier(num_writers), {}

    def write(number: int) -> None:
        for key in range(60):
            start.wait()
            if storage.put_bytes(str(number).encode(), f"{key}", if_absent=True):
                won.setdefault(f"{key}", []).append(str(number).encode())

    writers = [threading.Thread(target=write, args=(number,)) for number in range(num_writers)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert won == {f"{key}": [storage.get_bytes(f"{key}")] for key in range(60)}


def test_a_reader_of_the_old_object_reads_it_to_its_end(tmp_path: Path) -> None:
    """A file that is written again is another file: nobody sees one that is half old and half new."""
    storage = LocalStorage(tmp_path / "root")
    storage.put_bytes(b"old", "key")
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "copy").write_bytes(b"old")
    with storage.path("key").open("rb") as stored, (tmp_path / "copy").open("rb") as copied:
        storage.put_file(tmp_path / "new", "key")
        storage.get_file("key", tmp_path / "copy")
        assert (stored.read(), copied.read()) == (b"old", b"old")
    assert storage.get_bytes("key") == (tmp_path / "copy").read_bytes() == b"new"


def test_what_a_killed_writer_left_is_no_object(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put_bytes(b"whole", "folder/key")
    # A name as a write gives it until the bytes are complete.
    (tmp_path / "folder" / f".key.{'0' * 32}.part").write_bytes(b"ha")
    assert [(found.key, found.size) for found in storage.list()] == [("folder/key", 5)]


def test_a_file_of_another_file_system_is_taken_too(tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    with tempfile.TemporaryDirectory(dir=elsewhere) as folder:
        (Path(folder) / "data").write_bytes(b"bytes")
        LocalStorage(tmp_path).take_file(Path(folder) / "data", "key")
    assert (tmp_path / "key").read_bytes() == b"bytes"


def test_missing_objects(storage_root: str, tmp_path: Path) -> None:
    storage = open_storage(storage_root)
    with pytest.raises(MissingError, match="a/b does not exist"):
        storage.get_bytes("a/b")
    with pytest.raises(MissingError, match="a/b does not exist"):
        storage.get_file("a/b", tmp_path / "copy")
    with pytest.raises(MissingError, match=r"absent\.txt"):
        storage.put_file(tmp_path / "absent.txt", "key")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("key", ["../up", "a/../../up", "/etc/passwd", "", "a//b", "a\\b", "a/./b", "a\0b"])
def test_keys_that_could_leave_the_storage_are_refused(storage_root: str, key: str, tmp_path: Path) -> None:
    storage = open_storage(storage_root)
    for call in (
        lambda: storage.put_bytes(b"", key),
        lambda: storage.get_bytes(key),
        lambda: storage.delete_prefix(key),
        lambda: storage.get_file(key, tmp_path / "x"),
    ):
        with pytest.raises(ManifestError, match="refused"):
            call()


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param("runs", id="no scheme"),
        pytest.param("file://runs", id="relative"),
        pytest.param("s3://", id="no bucket"),
        pytest.param("gs://bucket/x", id="other provider"),
    ],
)
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(UserError, match="names no storage"):
        open_storage(uri)


@pytest.mark.parametrize("gone", ["file", "folder"])
def test_what_goes_while_a_disk_is_listed_is_not_listed(tmp_path: Path, monkeypatch, gone: str) -> None:
    """One rank removes what is left of a checkpoint while others look for complete ones."""
    storage = LocalStorage(tmp_path)
    for key in ("a/1", "b/1", "c/1"):
        storage.put_bytes(b"x", key)
    scandir = os.scandir

    def scan(path):
        if gone == "folder" and str(path).endswith("/b"):
            storage.delete_prefix("b/")
        return scandir(path)

    info = LocalStorage._info

    def described(self, path):
        if gone == "file" and path.parent.name == "b":
            storage.delete_prefix("b/")
        return info(self, path)

    monkeypatch.setattr(os, "scandir", scan)
    monkeypatch.setattr(LocalStorage, "_info", described)
    assert [found.key for found in storage.list()] == ["a/1", "c/1"]


def test_check_writable_leaves_nothing(storage_root: str) -> None:
    check_writable(storage_root)
    assert open_storage(storage_root).list() == []


def test_a_path_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError) as raised:
        check_writable(f"file://{tmp_path / 'file' / 'root'}")
    assert raised.value.exit_code == 2
    assert "choose another storage root" in str(raised.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_a_user_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        check_writable(f"file://{tmp_path / 'root'}")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_storage_error() -> None:
    full = Path("/dev/full")
    with pytest.raises(StorageError, match=r"storage: .*No space left"), disk(full), full.open("wb", 0) as stream:
        stream.write(b"x")


def test_an_interrupted_write_leaves_the_old_object(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put_bytes(b"old", "key")
    with pytest.raises(MissingError):
        storage.put_file(tmp_path / "absent", "key")
    assert storage.get_bytes("key") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_the_client_library_does_not_bury_the_lines_of_a_step(s3_root: str, caplog: pytest.LogCaptureFixture) -> None:
    # Kubeflow's executor sets the root logger so.
    caplog.set_level(logging.INFO)
    check_writable(s3_root)
    assert caplog.messages == []


def test_missing_bucket_is_named(s3_root: str) -> None:
    with pytest.raises(MissingError, match="bucket s3://no-such-bucket does not exist"):
        open_storage("s3://no-such-bucket/x").list()
    with pytest.raises(MissingError, match="bucket s3://no-such-bucket does not exist"):
        check_writable("s3://no-such-bucket/x")


def test_an_unreachable_server_is_a_storage_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "id-of-key",
        "AWS_SECRET_ACCESS_KEY": "hidden",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "data").write_text("x")
    storage = open_storage("s3://bucket/prefix")
    for call in (lambda: storage.get_bytes("key"), lambda: storage.put_file(tmp_path / "data", "key")):
        with pytest.raises(StorageError, match="storage: s3://bucket/prefix/key") as raised:
            call()
        assert "hidden" not in str(raised.value)
        assert raised.value.exit_code == 75
