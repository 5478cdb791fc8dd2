"""The storage module, and publishing through it, on a real S3 server: what it refuses, loses and cuts short.

`make test-s3`. The server of the unit tests accepts any credentials, any bucket name and never fails.
"""

import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from components.contracts.errors import ManifestError, StorageError
from components.contracts.manifest import Manifest
from components.storage import check_stored, check_writable, fetch, open_storage
from components.storage.store import MANIFEST_NAME
from tests.integration.radosgw import Gateway, gateway, missing
from tests.unit.storage import conftest as storage_fixtures

# The promises of every backend, kept by a real server too.
from tests.unit.storage.test_bad_line import (  # noqa: F401
    reads,
    test_a_write_whose_answer_was_lost_is_still_ours,
    test_bytes_that_are_always_cut_short_are_never_half_a_result,
    test_bytes_that_were_cut_short_are_read_again,
)
from tests.unit.storage.test_storage import (  # noqa: F401
    test_check_writable_leaves_nothing,
    test_etag_follows_the_bytes,
    test_list_and_delete_by_folder,
    test_missing_bucket_is_named,
    test_missing_objects,
    test_objects_round_trip,
    test_put_if_absent_writes_once,
)
from tests.unit.storage.test_store import (  # noqa: F401
    folder_of,
    published,
    test_an_unfinished_publish_is_completed,
    test_damage_is_named,
    test_equal_content_is_stored_once_and_the_manifest_renewed,
    test_presence_is_checked_without_reading,
    test_publish_then_fetch,
)

pytestmark = [pytest.mark.s3_server, pytest.mark.timeout(300)]
proxy = storage_fixtures.proxy
LARGE_BYTES = 20 << 20
"""Three parts, as boto3 cuts them."""


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Gateway]:
    if reason := missing():
        pytest.skip(reason)
    with gateway(tmp_path_factory.mktemp("ceph") / "cluster") as running:
        yield running


@pytest.fixture
def s3_root(server, monkeypatch) -> str:
    """A bucket of the test's own, as the environment of a step names it."""
    forget_credentials(monkeypatch)
    for name, value in server.variables().items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/team/project"


@pytest.fixture
def storage_root(s3_root) -> str:
    return s3_root


@pytest.fixture
def large(tmp_path) -> Path:
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(LARGE_BYTES))
    return path


def bucket_of(root: str) -> str:
    return root.split("/")[2]


def forget_credentials(monkeypatch) -> None:
    """Let boto3 look for credentials anew, as a new process would."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


def unfinished_uploads(root: str) -> list[dict]:
    return boto3.client("s3").list_multipart_uploads(Bucket=bucket_of(root)).get("Uploads", [])


def part(number: int):
    return lambda request: f"partNumber={number}" in request


def test_a_large_file_goes_in_parts_and_comes_back(s3_root, large, tmp_path):
    storage = open_storage(s3_root)
    storage.put_file(large, "large.bin")
    (info,) = storage.list()
    assert info.size == LARGE_BYTES
    assert info.etag.endswith("-3")
    storage.get_file("large.bin", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == large.read_bytes()
    assert unfinished_uploads(s3_root) == []


def test_one_of_many_writers_at_once_creates_the_key(s3_root):
    def write(number: int) -> bool:
        return open_storage(s3_root).put_bytes(str(number).encode(), "pointer", if_absent=True)

    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(write, range(16)))
    assert created.count(True) == 1
    assert open_storage(s3_root).get_bytes("pointer") == str(created.index(True)).encode()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        pytest.param("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId", id="unknown key"),
        pytest.param("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch", id="wrong secret"),
    ],
)
def test_bad_credentials_are_refused_by_name(name, code, s3_root, tmp_path, monkeypatch):
    forget_credentials(monkeypatch)
    monkeypatch.setenv(name, "wrong-one-here")
    (tmp_path / "file").write_text("x")
    storage = open_storage(s3_root)
    for call in (
        lambda: check_writable(s3_root),
        lambda: storage.get_bytes("key"),
        lambda: storage.put_file(tmp_path / "file", "key"),
        storage.list,
    ):
        with pytest.raises(StorageError, match=f"refused with {code}; check credentials") as raised:
            call()
        assert "wrong-one-here" not in str(raised.value)


def test_no_credentials_at_all_are_said_to_be_missing(s3_root, monkeypatch):
    forget_credentials(monkeypatch)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name, value in {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=f"storage: {s3_root}/key: Unable to locate credentials"):
        open_storage(s3_root).get_bytes("key")


@pytest.mark.parametrize("fault", ["busy", "hang up"])
def test_a_server_that_fails_three_times_is_asked_again(fault, s3_root, proxy, large, tmp_path):
    storage = open_storage(s3_root)
    proxy.fail(fault, 3)
    storage.put_bytes(b"small", "small")
    proxy.fail(fault, 3, part(2))
    storage.put_file(large, "large.bin")
    proxy.fail(fault, 3, reads)
    assert [info.key for info in storage.list()] == ["large.bin", "small"]
    proxy.fail(fault, 3, reads)
    assert storage.get_bytes("small") == b"small"
    proxy.fail(fault, 2, reads)
    storage.get_file("large.bin", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == large.read_bytes()


def test_a_server_that_stays_busy_is_named(s3_root, proxy, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    (tmp_path / "file").write_text("x")
    storage = open_storage(s3_root)
    proxy.fail("busy", 100)
    for call in (
        lambda: storage.put_bytes(b"", "key"),
        lambda: storage.put_file(tmp_path / "file", "key"),
        lambda: storage.get_bytes("key"),
        lambda: storage.exists("key"),
        lambda: storage.delete("key"),
        storage.list,
    ):
        before = len(proxy.requests)
        with pytest.raises(StorageError, match=f"storage: {s3_root}") as raised:
            call()
        assert raised.value.exit_code == 75
        assert len(proxy.requests) - before == 2


@pytest.mark.parametrize("times", [1, 3])
def test_a_file_that_was_cut_short_is_read_again(times, s3_root, proxy, large, tmp_path):
    storage = open_storage(s3_root)
    storage.put_file(large, "large.bin")
    proxy.fail("cut", times, reads)
    storage.get_file("large.bin", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == large.read_bytes()


def test_a_file_that_is_always_cut_short_is_never_half_a_result(s3_root, proxy, large, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    storage = open_storage(s3_root)
    storage.put_file(large, "large.bin")
    proxy.fail("cut", 1000, reads)
    with pytest.raises(StorageError, match=rf"storage: {s3_root}/large\.bin"):
        storage.get_file("large.bin", tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["large.bin"]


def test_an_upload_that_fails_half_way_leaves_nothing(s3_root, proxy, large, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    storage = open_storage(s3_root)
    proxy.fail("hang up", 1, part(2))
    with pytest.raises(StorageError, match=r"storage: .*large\.bin"):
        storage.put_file(large, "large.bin")
    assert storage.list() == []
    assert unfinished_uploads(s3_root) == []


def test_a_truncated_object_is_noticed_and_mended(s3_root, tmp_path):
    text = "all of it " * 1000
    manifest = published(folder_of(tmp_path / "one", whole=text), s3_root)
    stored = open_storage(manifest.uri)
    stored.put_bytes(text.encode()[:5000], "sub/whole.txt")
    said = r"sub/whole\.txt has 5000 bytes instead of 10000"
    with pytest.raises(ManifestError, match=said):
        check_stored(manifest)
    with pytest.raises(ManifestError, match=said):
        fetch(manifest, tmp_path / "cache")
    assert published(folder_of(tmp_path / "two", whole=text), s3_root) == manifest
    assert (fetch(manifest, tmp_path / "cache") / "sub" / "whole.txt").read_text() == text


def test_more_keys_than_a_page_holds(s3_root):
    storage = open_storage(s3_root)
    keys = [f"many/{number:05d}" for number in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: storage.put_bytes(b"", key), keys))
    storage.put_bytes(b"", "manyfold")
    assert [info.key for info in storage.list("many")] == keys
    storage.delete_prefix("many")
    assert [info.key for info in storage.list()] == ["manyfold"]


def test_many_publish_one_digest_at_once(s3_root, large, tmp_path):
    folders = [tmp_path / str(number) for number in range(4)]
    for folder in folders:
        folder_of(folder)
        (folder / "large.bin").write_bytes(large.read_bytes())
    with ThreadPoolExecutor(len(folders)) as pool:
        manifests = list(pool.map(lambda folder: published(folder, s3_root), folders))
    assert all(manifest == manifests[0] for manifest in manifests)
    stored = Manifest.from_json(open_storage(manifests[0].uri).get_bytes(MANIFEST_NAME).decode())
    assert stored == manifests[0]
    assert (fetch(stored, tmp_path / "cache") / "large.bin").read_bytes() == large.read_bytes()
    assert unfinished_uploads(s3_root) == []


def test_a_publish_through_a_bad_line_is_whole(s3_root, proxy, large, tmp_path):
    folder = folder_of(tmp_path / "data")
    (folder / "large.bin").write_bytes(large.read_bytes())
    for fault in ("busy", "hang up", "lose the answer"):
        proxy.fail(fault, 2)
    manifest = published(folder, s3_root)
    proxy.fail("cut", 2, reads)
    proxy.fail("busy", 2, reads)
    fetched = fetch(manifest, tmp_path / "cache")
    assert (fetched / "large.bin").read_bytes() == large.read_bytes()
