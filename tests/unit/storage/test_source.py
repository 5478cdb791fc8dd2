"""Foreign data arrives whole: local paths, HTTP with interruptions, S3."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from components.contracts.errors import MissingError, StorageError, UserError
from components.storage import http_download
from components.storage.source import fetch_source, public_uri

DATA = bytes(range(256)) * 4000


class Site(BaseHTTPRequestHandler):
    """Serves DATA under several kinds of bad weather."""

    requests: list[tuple[str, str]] = []
    cut_at: list[int] = []
    statuses: list[int] = []
    """Of the next answers, before any data."""
    silent = threading.Event()
    """Set when a request to `/silent` may be answered."""
    tag = '"one"'

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        given_range = self.headers.get("Range", "")
        Site.requests.append((self.path, given_range))
        match self.path.partition("?")[0]:
            case "/refused":
                self._send(403, b"")
            case "/busy":
                self._send(503, b"")
            case "/silent":
                Site.silent.wait(60)
            case "/data.bin" if Site.statuses:
                self._send(Site.statuses.pop(0), b"")
            case "/data.bin":
                self._send_data(given_range)
            case _:
                self._send(404, b"")

    def _send_data(self, given_range: str) -> None:
        start = 0
        if given_range and self.headers.get("If-Range") == Site.tag:
            start = int(given_range.removeprefix("bytes=").rstrip("-"))
        body = DATA[start:]
        cut = Site.cut_at.pop(0) if Site.cut_at else len(body)
        self._send(206 if start else 200, body[:cut], {"ETag": Site.tag, "Content-Length": str(len(body))})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
        self.close_connection = True


@pytest.fixture(scope="module")
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(http_download, "FIRST_BACK_OFF_S", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    Site.requests.clear()
    Site.cut_at.clear()
    Site.statuses.clear()
    Site.silent.clear()


def anything(_: str) -> bool:
    return True


def test_a_local_path_is_used_in_place(tmp_path):
    (tmp_path / "a.jsonl").write_text("x")
    for uri in (str(tmp_path / "a.jsonl"), f"file://{tmp_path}/a.jsonl"):
        assert fetch_source(uri, tmp_path / "work", anything) == tmp_path / "a.jsonl"


def test_http_downloads_the_file_under_its_name(site, tmp_path):
    path = fetch_source(f"{site}/data.bin?token=secret", tmp_path, anything)
    assert path == tmp_path / "data.bin"
    assert path.read_bytes() == DATA


def test_an_interrupted_download_goes_on_where_it_stopped(site, tmp_path):
    Site.cut_at[:] = [100_000, 200_000]
    assert fetch_source(f"{site}/data.bin", tmp_path, anything).read_bytes() == DATA
    assert [given for _, given in Site.requests] == ["", "bytes=100000-", "bytes=300000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]


def test_many_interruptions_are_borne_while_there_is_progress(site, tmp_path):
    Site.cut_at[:] = [1_000] * (2 * http_download.ATTEMPTS_WITHOUT_PROGRESS)
    assert fetch_source(f"{site}/data.bin", tmp_path, anything).read_bytes() == DATA


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_server_that_may_answer_in_a_moment_is_asked_again(site, tmp_path, status):
    Site.statuses[:] = [status] * (http_download.ATTEMPTS_WITHOUT_PROGRESS - 1)
    assert fetch_source(f"{site}/data.bin", tmp_path, anything).read_bytes() == DATA


@pytest.mark.parametrize("status", [400, 401, 403, 405])
def test_a_server_that_refuses_is_asked_once(site, tmp_path, status):
    Site.statuses[:] = [status] * 9
    with pytest.raises(UserError, match=f"HTTP {status}"):
        fetch_source(f"{site}/data.bin", tmp_path, anything)
    assert len(Site.requests) == 1


def test_a_file_that_is_shorter_now_is_loaded_anew(site, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(DATA + b"more")
    (tmp_path / "data.bin.part.etag").write_text(Site.tag)
    # What a server says of a range that begins behind the end.
    Site.statuses[:] = [416]
    assert fetch_source(f"{site}/data.bin", tmp_path, anything).read_bytes() == DATA
    assert [given for _, given in Site.requests] == [f"bytes={len(DATA) + 4}-", ""]


def test_a_server_that_says_nothing_is_given_up(site, tmp_path, monkeypatch):
    monkeypatch.setattr(http_download, "TIMEOUT_S", 0.05)
    try:
        with pytest.raises(StorageError, match="timed out"):
            fetch_source(f"{site}/silent", tmp_path, anything)
    finally:
        Site.silent.set()


def test_bytes_of_a_file_without_a_tag_are_not_taken_for_those_of_the_tagged_one(site, tmp_path, monkeypatch):
    (tmp_path / "data.bin.part").write_bytes(b"wrong")
    (tmp_path / "data.bin.part.etag").write_text('"other"')
    monkeypatch.setattr(Site, "tag", "")
    Site.cut_at[:] = [100_000]
    assert fetch_source(f"{site}/data.bin", tmp_path, anything).read_bytes() == DATA
    assert [given for _, given in Site.requests] == ["bytes=5-", ""]


@pytest.mark.parametrize(
    ("remembered", "start"),
    [pytest.param('"one"', "bytes=5-", id="same-file"), pytest.param('"other"', "bytes=5-", id="changed-file")],
)
def test_a_later_attempt_trusts_old_bytes_only_of_the_same_file(site, tmp_path, remembered, start):
    old = DATA[:5] if remembered == Site.tag else b"wrong"
    (tmp_path / "data.bin.part").write_bytes(old)
    (tmp_path / "data.bin.part.etag").write_text(remembered)
    assert fetch_source(f"{site}/data.bin", tmp_path, anything).read_bytes() == DATA
    assert Site.requests == [("/data.bin", start)]


def test_old_bytes_without_a_tag_are_dropped(site, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(b"wrong")
    assert fetch_source(f"{site}/data.bin", tmp_path, anything).read_bytes() == DATA


@pytest.mark.parametrize(
    ("path", "error", "num_requests"),
    [
        pytest.param("/absent", MissingError, 1, id="absent"),
        pytest.param("/refused", UserError, 1, id="refused"),
        pytest.param("/busy", StorageError, http_download.ATTEMPTS_WITHOUT_PROGRESS, id="busy"),
    ],
)
def test_http_failures(site, tmp_path, path, error, num_requests):
    with pytest.raises(error) as caught:
        fetch_source(f"{site}{path}?token=secret", tmp_path, anything)
    assert "secret" not in str(caught.value)
    assert len(Site.requests) == num_requests


def test_an_absent_server_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="without progress"):
        fetch_source("http://127.0.0.1:9/data.bin", tmp_path, anything)


@pytest.mark.parametrize("uri", ["ftp://x/y", "hf://models/a/b", "hf://datasets/a", "s3://"])
def test_addresses_that_name_nothing(tmp_path, uri):
    with pytest.raises(UserError, match="Allowed"):
        fetch_source(uri, tmp_path, anything)


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(MissingError, match="absent"):
        fetch_source(str(tmp_path / "absent"), tmp_path, anything)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://user:word@host:8/a.jsonl?X-Signature=s#f", "https://host:8/a.jsonl"),
        ("world://small?seed=7", "world://small?seed=7"),
        ("/data/a?b.jsonl", "/data/a?b.jsonl"),
    ],
)
def test_public_uri_keeps_no_secret(uri, shown):
    assert public_uri(uri) == shown


def test_s3_object_and_folder(tmp_path, monkeypatch):
    boto3 = pytest.importorskip("boto3")
    moto = pytest.importorskip("moto")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    with moto.mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="data")
        for key in ("corpus/a.jsonl", "corpus/deep/b.jsonl", "corpus/c.txt"):
            client.put_object(Bucket="data", Key=key, Body=key.encode())
        path = fetch_source("s3://data/corpus/a.jsonl", tmp_path / "one", anything)
        assert path.read_text() == "corpus/a.jsonl"
        folder = fetch_source("s3://data/corpus", tmp_path / "all", lambda name: name.endswith(".jsonl"))
        found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        assert found == [Path("a.jsonl"), Path("deep/b.jsonl")]
        with pytest.raises(MissingError):
            fetch_source("s3://data/absent", tmp_path / "none", anything)
