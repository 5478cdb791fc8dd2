"""A version follows the content of a source, whoever holds it, and nothing else."""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from components.contracts.errors import MissingError, StorageError, UserError
from components.contracts.manifest import ProducedBy
from components.storage import open_storage, publish, source_version
from components.storage.source_version import VersionUnknown
from components.storage.source_version import source_version as version_of

MADE = ProducedBy(step="test", version="1", git_commit="c0ffee", config_sha256="ab")


def jsonl(name: str) -> bool:
    return name.endswith(".jsonl")


def version(uri: str) -> str:
    return version_of(uri, jsonl)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.jsonl").write_text("one")
    (tmp_path / "deep" / "b.jsonl").write_text("two")
    (tmp_path / "notes.txt").write_text("not of use")
    return tmp_path


def touch(folder: Path) -> None:
    os.utime(folder / "a.jsonl", (1, 1))


def same_size_same_time(folder: Path) -> None:
    stat = (folder / "a.jsonl").stat()
    (folder / "a.jsonl").write_text("eno")
    os.utime(folder / "a.jsonl", ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        pytest.param(lambda f: (f / "a.jsonl").write_text("three"), True, id="another text"),
        pytest.param(same_size_same_time, True, id="of the same size and time"),
        pytest.param(lambda f: (f / "c.jsonl").write_text(""), True, id="one file more"),
        pytest.param(lambda f: (f / "a.jsonl").rename(f / "z.jsonl"), True, id="another name"),
        pytest.param(touch, False, id="another time only"),
        pytest.param(lambda f: (f / "notes.txt").write_text("changed"), False, id="a file that is not read"),
    ],
)
def test_a_folder_is_its_content(folder, change, differs):
    before = version(str(folder))
    change(folder)
    assert (version(f"file://{folder}") != before) is differs


def test_a_file_is_its_content_wherever_it_lies(folder):
    (folder / "copy.jsonl").write_text("one")
    assert version(str(folder / "a.jsonl")) == version(f"file://{folder}/copy.jsonl")
    assert version(str(folder / "a.jsonl")) != version(f"{folder}/deep/b.jsonl")


def test_objects_are_their_tags(s3_root):
    storage = open_storage(f"{s3_root}/corpus")
    storage.put_bytes(b"one", "a.jsonl")
    storage.put_bytes(b"two", "deep/b.jsonl")
    whole, single = version(f"{s3_root}/corpus"), version(f"{s3_root}/corpus/a.jsonl")
    assert (version(f"{s3_root}/corpus/"), len(whole)) == (whole, 16)
    storage.put_bytes(b"no matter", "notes.txt")
    storage.put_bytes(b"one", "a.jsonl")
    assert (version(f"{s3_root}/corpus"), version(f"{s3_root}/corpus/a.jsonl")) == (whole, single)
    storage.put_bytes(b"eno", "a.jsonl")
    assert version(f"{s3_root}/corpus") != whole
    assert version(f"{s3_root}/corpus/a.jsonl") != single


@pytest.mark.parametrize("scheme", ["file", "s3"])
def test_what_we_published_is_its_manifest(folder, scheme, tmp_path_factory, request):
    root = f"file://{tmp_path_factory.mktemp('root')}" if scheme == "file" else request.getfixturevalue("s3_root")
    manifest = publish(folder, storage_root=root, kind="corpus", produced_by=MADE)
    before = version(manifest.uri)
    # The manifest says it all: no tag of a file, which an upload in other parts changes, is looked at.
    open_storage(manifest.uri).delete("a.jsonl")
    assert version(manifest.uri) == before


@pytest.mark.parametrize("scheme", ["file", "s3"])
def test_what_is_not_there_is_named(scheme, tmp_path, request):
    root = f"file://{tmp_path}" if scheme == "file" else request.getfixturevalue("s3_root")
    with pytest.raises(MissingError, match="nowhere"):
        version(f"{root}/nowhere")


def test_another_scheme_is_refused():
    with pytest.raises(UserError, match="unknown kind"):
        version("ftp://x/y")


class Site(BaseHTTPRequestHandler):
    """Answers HEAD with what the test puts here."""

    answers: list[tuple[int, dict[str, str]]] = []

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        status, headers = Site.answers.pop(0)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(source_version, "FIRST_BACK_OFF_S", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/corpus.jsonl"
    server.shutdown()
    server.server_close()


def versions(site, *answers):
    Site.answers[:] = answers
    return [version(site) for _ in answers]


def test_a_web_file_is_its_entity_tag_or_time_of_change(site):
    one, again, other = versions(site, *((200, {"ETag": tag}) for tag in ('"1"', '"1"', '"2"')))
    assert one == again != other
    days = ("Mon, 02 Nov 2026 10:00:00 GMT", "Tue, 03 Nov 2026 10:00:00 GMT")
    one, other = versions(site, *((200, {"Last-Modified": day}) for day in days))
    assert one != other
    # Twice within the second that such a time is told in.
    lengths = ({"Last-Modified": days[0], "Content-Length": length} for length in ("1", "2"))
    one, other = versions(site, *((200, headers) for headers in lengths))
    assert one != other


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        pytest.param([(200, {"Content-Length": "3"})], VersionUnknown, id="no tag and no time"),
        pytest.param([(405, {})], VersionUnknown, id="no HEAD"),
        pytest.param([(404, {})], MissingError, id="missing"),
        pytest.param([(403, {})], UserError, id="refused"),
        pytest.param([(503, {})] * 4, StorageError, id="down for long"),
    ],
)
def test_a_web_server_that_tells_nothing_is_no_version(site, answers, error):
    Site.answers[:] = answers
    with pytest.raises(error) as raised:
        version(f"{site}?token=secret")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_web_server_that_was_busy_is_asked_again(site, status):
    Site.answers[:] = [(status, {})] * 3 + [(200, {"ETag": '"1"'})]
    assert len(version(site)) == 16


def test_a_web_server_that_says_nothing_is_given_up(site, monkeypatch):
    monkeypatch.setattr(source_version, "TIMEOUT_S", 0.05)
    may_answer = threading.Event()
    monkeypatch.setattr(Site, "do_HEAD", lambda handler: may_answer.wait(60))
    try:
        with pytest.raises(StorageError, match="failed 4 times: timed out"):
            version(site)
    finally:
        may_answer.set()


def test_a_data_set_is_its_commit(monkeypatch):
    commits = iter(["a" * 40, "b" * 40])
    monkeypatch.setattr(source_version, "pinned_uri", lambda uri: f"{uri}@{next(commits)}")
    assert version("hf://datasets/o/n") != version("hf://datasets/o/n")
