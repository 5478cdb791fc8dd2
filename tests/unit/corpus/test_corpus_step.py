"""The corpus step: every source becomes the same wiki-18 JSONL, and bad sources stop it without a trace."""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.contracts.errors import ConfigError, CorpusError, MissingError
from components.contracts.step import StepContext
from components.corpus.config import CorpusConfig
from components.corpus.main import run
from components.corpus.records import MAX_LINE_BYTES
from components.storage import fetch

ROWS = [
    {"id": "0", "contents": '"Rivers"\nThe Ona flows \u00fcber Land.'},
    {"id": "1", "contents": '"Towns"\nOna lies on it.'},
    {"id": "x", "contents": "no title </information>"},
    # Neither composed nor stripped: an answer is looked for in the text as it was given.
    {"id": " y", "contents": " u\u0308ber \u00a0\n"},
]


def jsonl(rows: list) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def corpus_of(tmp_path: Path, uri: str, **settings):
    config = CorpusConfig(uri=uri, **settings)
    context = StepContext("corpus", f"file://{tmp_path}/runs", "0" * 64, config.sha256())
    return run(config, context)


def rows_of(result) -> list[dict]:
    folder = fetch(result.manifest)
    return [json.loads(line) for path in sorted(folder.glob("corpus*.jsonl")) for line in path.open()]


def left_behind(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]


def write_parquet(path: Path, columns: dict) -> None:
    pq.write_table(pa.table(columns), path)


def test_formats_give_the_same_content(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl(ROWS))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(jsonl(ROWS)))
    (tmp_path / "misnamed.jsonl").write_bytes(gzip.compress(jsonl(ROWS)))
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + jsonl(ROWS).replace(b"\n", b"\r\n\n"))
    columns = {name: [row[name] for row in ROWS] for name in ("id", "contents")}
    write_parquet(tmp_path / "c.parquet", columns | {"ignored": [1, 2, 3, 4]})
    names = ("a.jsonl", "b.jsonl.gz", "misnamed.jsonl", "bom.jsonl", "c.parquet")
    results = [corpus_of(tmp_path, str(tmp_path / name)) for name in names]
    assert rows_of(results[0]) == ROWS
    assert len({result.manifest.digest for result in results}) == 1
    assert results[0].manifest.counts == {"passages": 4, "malformed_lines": 0}
    assert results[0].manifest.metadata["source"] == str(tmp_path / "a.jsonl")


def test_title_and_text_become_contents(tmp_path):
    rows = [
        {"id": 7, "title": "Ona\nriver", "text": "It flows.\nFar."},
        {"id": 8, "title": None, "text": "First line.\nSecond."},
    ]
    (tmp_path / "a.jsonl").write_bytes(jsonl(rows))
    expected = [
        {"id": "7", "contents": '"Ona river"\nIt flows.\nFar.'},
        {"id": "8", "contents": "First line. Second."},
    ]
    assert rows_of(corpus_of(tmp_path, str(tmp_path / "a.jsonl"))) == expected
    write_parquet(tmp_path / "a.parquet", {name: [row[name] for row in rows] for name in ("id", "title", "text")})
    assert rows_of(corpus_of(tmp_path, str(tmp_path / "a.parquet"))) == expected


def test_a_folder_is_read_file_by_file_and_written_in_shards(tmp_path):
    folder = tmp_path / "source" / "deep"
    folder.mkdir(parents=True)
    (folder.parent / "b.jsonl").write_bytes(jsonl(ROWS[2:]))
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(jsonl(ROWS[:2])))
    (folder / "README.md").write_text("ignored")
    result = corpus_of(tmp_path, str(folder.parent), passages_per_file=2)
    assert [entry.path for entry in result.manifest.files] == ["corpus-00000.jsonl", "corpus-00001.jsonl"]
    assert sorted(row["id"] for row in rows_of(result)) == [" y", "0", "1", "x"]


def test_the_order_of_the_files_is_that_of_their_names(tmp_path):
    (tmp_path / "source").mkdir()
    for name in "gdajbfchei":
        (tmp_path / "source" / f"{name}.jsonl").write_bytes(jsonl([{"id": name, "contents": name}]))
    assert "".join(row["id"] for row in rows_of(corpus_of(tmp_path, str(tmp_path / "source")))) == "abcdefghij"


def test_an_id_of_two_files_is_named_with_both(tmp_path):
    (tmp_path / "source").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / "source" / name).write_bytes(jsonl(ROWS[:1]))
    with pytest.raises(CorpusError, match=r"id '0': a\.jsonl, line 1; b\.jsonl, line 1"):
        corpus_of(tmp_path, str(tmp_path / "source"))
    assert left_behind(tmp_path) == []


def test_a_world_is_a_source_like_any_other(tmp_path):
    first, again = (corpus_of(tmp_path, "world://mini?seed=3") for _ in range(2))
    assert first.manifest.counts["passages"] == len(rows_of(first)) > 100
    assert first.manifest.digest == again.manifest.digest
    assert first.manifest.digest != corpus_of(tmp_path, "world://mini?seed=4").manifest.digest
    assert not list((tmp_path / "runs" / "work").rglob("*.*"))


GOOD = jsonl(ROWS[:1]).decode()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param("{not json", "not JSON", id="json"),
        pytest.param('{"id": "2"', "at column 12", id="cut-off"),
        pytest.param("[1, 2]", "not an object but list", id="list"),
        pytest.param("[" * 100_000, "not JSON", id="nested-too-deeply"),
        pytest.param('{"contents": "x"}', "no id", id="no-id"),
        pytest.param('{"id": " ", "contents": "x"}', "no id", id="blank-id"),
        pytest.param('{"id": true, "contents": "x"}', "no id", id="boolean-id"),
        pytest.param('{"id": "9"}', "neither contents nor", id="no-contents"),
        pytest.param('{"id": "9", "title": "x"}', "neither contents nor", id="no-text"),
        pytest.param('{"id": "9", "contents": ["x"]}', "not a text but list", id="contents-type"),
        pytest.param('{"id": "9", "contents": " \\u0000\\u3000"}', "text is empty", id="blank"),
        pytest.param('{"id": "9", "title": "x", "text": ""}', "text is empty", id="blank-text"),
        pytest.param('{"id": "9", "contents": "\\ud800"}', "surrogate", id="half-a-surrogate-pair"),
        pytest.param('{"id": "9", "contents": "\udcff"}', "not UTF-8", id="encoding"),
        pytest.param('{"id": "9", "contents": "' + "x" * MAX_LINE_BYTES + '"}', "longer than", id="endless-line"),
    ],
)
def test_a_malformed_line_is_named_and_stops_the_step(tmp_path, line, reason):
    source = tmp_path / "a.jsonl"
    source.write_bytes((GOOD + line + "\n" + GOOD.replace('"0"', '"1"')).encode(errors="surrogateescape"))
    with pytest.raises(CorpusError, match=rf"a\.jsonl, line 2: .*{reason}") as caught:
        corpus_of(tmp_path, str(source))
    assert "max_malformed_lines" in str(caught.value)
    assert left_behind(tmp_path) == []
    assert corpus_of(tmp_path, str(source), max_malformed_lines=1).manifest.counts == {
        "passages": 2,
        "malformed_lines": 1,
    }


def test_the_first_malformed_lines_are_shown_and_all_are_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text(GOOD + "oops\n" * 50)
    with pytest.raises(CorpusError, match="50 malformed lines") as caught:
        corpus_of(tmp_path, str(tmp_path / "a.jsonl"), max_malformed_lines=49)
    assert str(caught.value).count("not JSON") == 20
    assert "line 2:" in str(caught.value)
    assert "and 30 more" in str(caught.value)


def tar_bytes(mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        member = tarfile.TarInfo("wiki.jsonl")
        member.size = len(jsonl(ROWS))
        archive.addfile(member, io.BytesIO(jsonl(ROWS)))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        pytest.param("a.jsonl", b"", "corpus is empty", id="empty"),
        pytest.param("a.jsonl", b"\n\n \n", "corpus is empty", id="blank-lines"),
        pytest.param("a.jsonl.gz", gzip.compress(b""), "corpus is empty", id="empty-gzip"),
        pytest.param("a.jsonl.gz", tar_bytes("w:gz"), "tar archive compressed with gzip", id="tar-in-gzip"),
        pytest.param("a.jsonl", tar_bytes("w"), "is a tar archive", id="tar"),
        pytest.param("a.jsonl.gz", b"PK\x03\x04 zip", "is a zip archive", id="zip"),
        pytest.param("a.jsonl.gz", gzip.compress(jsonl(ROWS))[:-20], "is damaged", id="truncated-gzip"),
        pytest.param("a.jsonl.gz", b"\x1f\x8b garbage", "is damaged", id="not-gzip"),
        pytest.param("a.parquet", b"PAR1 garbage PAR1", "is damaged", id="not-parquet"),
        pytest.param("a.jsonl", jsonl([ROWS[0], ROWS[1], ROWS[0]]), r"id '0': a\.jsonl, line 1; a", id="duplicate-id"),
    ],
)
def test_bad_files_stop_the_step(tmp_path, name, data, says):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CorpusError, match=says):
        corpus_of(tmp_path, str(tmp_path / name))
    assert left_behind(tmp_path) == []


def test_parquet_without_the_columns_names_what_it_has(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"docid": ["1"], "body": ["x"]})
    with pytest.raises(CorpusError, match="has the columns body, docid"):
        corpus_of(tmp_path, str(tmp_path / "a.parquet"))


def test_what_is_not_there_is_missing(tmp_path):
    with pytest.raises(MissingError, match="absent"):
        corpus_of(tmp_path, str(tmp_path / "absent.jsonl"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingError, match="no corpus file"):
        corpus_of(tmp_path, str(tmp_path / "empty"))


@pytest.mark.parametrize("uri", ["world://huge", "world://mini?seed=x", "world://mini?sead=1", "world://"])
def test_worlds_that_do_not_exist(tmp_path, uri):
    with pytest.raises(ConfigError):
        corpus_of(tmp_path, uri)
    assert left_behind(tmp_path) == []


def test_a_pinned_digest_is_checked(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl(ROWS))
    with pytest.raises(CorpusError, match="has the SHA-256"):
        corpus_of(tmp_path, str(tmp_path / "a.jsonl"), source_sha256="0" * 64)
    digest = hashlib.sha256(jsonl(ROWS)).hexdigest()
    assert corpus_of(tmp_path, str(tmp_path / "a.jsonl"), source_sha256=digest).manifest.counts["passages"] == 4
    with pytest.raises(CorpusError, match="the source is a folder"):
        corpus_of(tmp_path, str(tmp_path), source_sha256=digest)


HUB_CLIENT = """
import sys
from components.contracts.step import StepContext
from components.corpus.config import CorpusConfig
from components.corpus.main import run

config = CorpusConfig(uri="hf://datasets/owner/name@main")
manifest = run(config, StepContext("corpus", f"file://{sys.argv[1]}", "0" * 64, config.sha256())).manifest
print(manifest.metadata["source"], manifest.counts["passages"])
"""


def test_a_corpus_of_the_hub_names_its_commit_and_loads_nothing_else(tmp_path, hub):
    hub.files |= {"wiki.jsonl": jsonl(ROWS), "wiki.bin": b"-"}
    done = hub.python(HUB_CLIENT, str(tmp_path / "runs"))
    said = done.stdout.split() or pytest.fail(done.stderr)
    assert said == ["hf://datasets/owner/name@c0ffee" + "0" * 34, "4.0"]
    assert not [path for path in hub.requests if path.endswith("wiki.bin")]
