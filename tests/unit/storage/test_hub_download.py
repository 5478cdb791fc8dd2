"""Data sets of the Hugging Face Hub: pinned, checked, and there again without a network."""

import pytest

from components.contracts.errors import UserError
from components.storage.source import pinned_model_uri, pinned_uri

CLIENT = """
import sys
from pathlib import Path
from components.contracts.errors import SearchR1Error
from components.storage.source import fetch_source, pinned_uri

for uri in sys.argv[1:]:
    try:
        folder = fetch_source(pinned_uri(uri), Path("unused"), lambda name: name.endswith(".jsonl"))
        found = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
        print(pinned_uri(uri).partition("@")[2], *(f"{path.name}={path.stat().st_size}" for path in found))
    except SearchR1Error as error:
        print(type(error).__name__, " ".join(str(error).split()))
"""
URI = "hf://datasets/owner/name"
COMMIT = "c0ffee" + "0" * 34


@pytest.fixture
def data_set(hub):
    hub.files |= {"README.md": b"# Data", "part/a.jsonl": b"{}\n", "part/b.txt": b"-", "large.jsonl": b"x" * 5000}
    return hub


def lines(done) -> list[str]:
    return done.stdout.splitlines() or pytest.fail(done.stderr)


def test_branches_become_commits_and_only_wanted_files_come(data_set):
    uris = [URI, f"{URI}@v1/part", f"{URI}@{COMMIT}/part/a.jsonl"]
    data_set.files |= {"parts/c.jsonl": b"", "part/odd[1].jsonl": b"{ }\n"}
    whole, folder, file = lines(data_set.python(CLIENT, *uris))
    assert whole == f"{COMMIT} large.jsonl=5000 a.jsonl=3 odd[1].jsonl=4 c.jsonl=0"
    assert folder == f"{COMMIT}/part a.jsonl=3 odd[1].jsonl=4"
    assert file == f"{COMMIT}/part/a.jsonl a.jsonl=3"
    assert not [path for path in data_set.requests if path.endswith(("README.md", "b.txt"))]


def test_a_folder_is_not_mistaken_for_those_whose_names_begin_alike(data_set):
    data_set.files |= {"parts/c.jsonl": b"{}\n"}
    lines(data_set.python(CLIENT, f"{URI}/part"))
    assert not [path for path in data_set.requests if path.endswith("c.jsonl")]


def test_a_second_time_needs_no_network(data_set):
    first = lines(data_set.python(CLIENT, URI))
    data_set.requests.clear()
    assert lines(data_set.python(CLIENT, URI, f"{URI}@{COMMIT}", offline=True))[0] == first[0]
    assert data_set.requests == []


def test_offline_says_what_the_cache_lacks(data_set):
    [nothing] = lines(data_set.python(CLIENT, URI, offline=True))
    assert nothing.startswith("MissingError Data set owner/name@main is not in the cache")
    assert "run once with HF_HUB_OFFLINE=0" in nothing
    lines(data_set.python(CLIENT, f"{URI}/part"))
    [partly] = lines(data_set.python(CLIENT, URI, offline=True))
    assert partly.startswith(f"MissingError Data set owner/name@{COMMIT} lacks in the cache: large.jsonl")


@pytest.mark.parametrize("name", [pytest.param("part/a.jsonl", id="small"), pytest.param("large.jsonl", id="large")])
def test_a_damaged_file_is_loaded_once_more_then_refused(data_set, name):
    data = data_set.files[name]
    wrong = bytes(len(data))
    data_set.damaged[name] = [wrong]
    assert "a.jsonl=3" in lines(data_set.python(CLIENT, URI))[0]
    stored = next(path for path in data_set.home.rglob("a.jsonl" if name.startswith("part") else "large.jsonl"))
    assert stored.read_bytes() == data
    stored.resolve().write_bytes(wrong)
    data_set.damaged[name] = [wrong]
    [refused] = lines(data_set.python(CLIENT, URI))
    assert f"{name} differs from the digest that the hub states" in refused


def test_what_does_not_exist_is_named(data_set):
    uris = ["hf://datasets/owner/unknown", f"{URI}@v9", f"{URI}/absent"]
    unknown, revision, nothing = lines(data_set.python(CLIENT, *uris))
    assert unknown.startswith("MissingError Data set owner/unknown@main was not found")
    assert revision.startswith("MissingError Data set owner/name@v9 was not found")
    assert "holds nothing of use at 'absent'" in nothing


MODEL_CLIENT = """
import sys
from components.contracts.errors import SearchR1Error
from components.storage.source import pinned_model_uri

for uri in sys.argv[1:]:
    try:
        print(pinned_model_uri(uri))
    except SearchR1Error as error:
        print(type(error).__name__, " ".join(str(error).split()))
"""


def test_a_branch_of_a_model_becomes_its_commit(hub):
    uris = ["hf://owner/name", "hf://owner/name@v1", "hf://owner/name@v9", f"hf://other/away@{COMMIT}"]
    newest, tag, unknown, commit = lines(hub.python(MODEL_CLIENT, *uris))
    assert newest == tag == f"hf://owner/name@{COMMIT}"
    assert unknown.startswith("MissingError Model owner/name@v9 was not found")
    # A commit names the same for ever: nobody is asked.
    assert commit == uris[-1]
    assert not [path for path in hub.requests if "other" in path]


@pytest.mark.parametrize("uri", ["hf://", "hf://a/b/c", "hf://@main"])
def test_addresses_that_name_no_model(uri):
    with pytest.raises(UserError, match="names no model"):
        pinned_model_uri(uri)


def test_an_absent_hub_is_a_storage_error(data_set):
    data_set.url = "http://127.0.0.1:9"
    assert lines(data_set.python(CLIENT, URI))[0].startswith("StorageError storage: Data set owner/name@main")


@pytest.mark.parametrize("uri", ["hf://models/a/b", "hf://datasets/a", "hf://"])
def test_addresses_that_name_no_data_set(uri):
    with pytest.raises(UserError, match="Allowed"):
        pinned_uri(uri)


@pytest.mark.parametrize("uri", ["", "/data/a", "world://small?seed=7", "s3://b/k"])
def test_other_sources_are_as_pinned_as_they_get(uri):
    assert pinned_uri(uri) == uri
