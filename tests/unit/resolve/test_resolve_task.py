"""The first task of a run: it looks at the sources, decides whether there is anything to do, and says so."""

import hashlib
import json
from types import SimpleNamespace
from uuid import uuid4

import pytest

from components.contracts.errors import TrackingError
from components.resolve import main, novelty
from components.resolve.code_digest import code_digests
from components.resolve.main import resolve_task
from components.resolve.tasks import TASKS
from components.storage.source_version import VersionUnknown
from components.tracking import open_client
from components.tracking.registered import corpus_versions

LINE = '{"id": "1", "contents": "fine"}\n'


@pytest.fixture(scope="module")
def registry_uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text(LINE)
    return path


@pytest.fixture
def task(tmp_path, corpus, monkeypatch):
    """Run the task over the corpus file and return decision, settings by task, and the texts it left."""
    monkeypatch.setenv("SEARCHR1_RUN_ID", "r1")

    def run(**parameters):
        outputs = {
            name: SimpleNamespace(path=str(tmp_path / "out" / name), metadata={}) for name in ("card", "metrics")
        }
        given = {"storage_root": f"file://{tmp_path}/runs", "corpus_uri": str(corpus)} | parameters
        decision, *settings = resolve_task(outputs, **given)
        texts = {name: (tmp_path / "out" / name).read_text() for name in outputs}
        texts["shown"] = json.dumps(outputs["metrics"].metadata)
        texts["resolved"] = (tmp_path / "runs" / "r1" / "resolved.json").read_text()
        return decision, dict(zip(TASKS, settings, strict=True)), texts

    return run


def version_in(settings):
    return json.loads(settings["corpus"])["config"]["source_version"]


def test_a_corpus_changed_in_place_changes_the_settings_that_caches_key_on(task, corpus):
    _, before, _ = task()
    assert task()[1] == before
    corpus.write_text(LINE.replace("fine", "new!"))
    _, after, _ = task()
    changed = {name for name in TASKS if before[name] != after[name]}
    assert changed == {"corpus", "register"}
    assert json.loads(after["register"])["config"]["corpus_version"] == version_in(after)


@pytest.mark.parametrize("changed", ["test", "train"])
def test_questions_changed_in_place_do_as_well(task, tmp_path, changed):
    for name in ("test", "train"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "nq.jsonl").write_text("{}")
    given = {"questions_uri": f"{tmp_path}/test", "overrides": f"questions.train_uri={tmp_path}/train"}
    _, before, _ = task(**given)
    (tmp_path / changed / "nq.jsonl").write_text("[]")
    _, after, _ = task(**given)
    assert {name for name in TASKS if before[name] != after[name]} == {"questions"}


def test_so_does_a_base_model_changed_in_place(task, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"1")
    _, before, _ = task(base_model=str(folder))
    (folder / "notes.bin").write_bytes(b"no file of a model")
    assert task(base_model=str(folder))[1] == before
    (folder / "model.safetensors").write_bytes(b"2")
    _, after, _ = task(base_model=str(folder))
    assert {name for name in TASKS if before[name] != after[name]} == {"base_model"}


def test_a_branch_of_a_model_becomes_the_commit_it_names_now(task, monkeypatch):
    monkeypatch.setattr("components.resolve.sources.pinned_model_uri", lambda uri: f"{uri}@{'c' * 40}")
    _, settings, _ = task(base_model="hf://owner/name")
    assert json.loads(settings["base_model"])["config"]["source"] == f"hf://owner/name@{'c' * 40}"


def test_a_made_up_world_is_its_recipe(task):
    versions = [version_in(task(corpus_uri=f"world://small?seed={seed}")[1]) for seed in (1, 1, 2)]
    assert versions[0] == versions[1] != versions[2]
    code = code_digests(["fictional_world"])["fictional_world"]
    assert versions[2] == hashlib.sha256(f"world://small?seed=2\n{code}".encode()).hexdigest()[:16]


def test_a_branch_of_the_hub_becomes_the_commit_it_names_now(task, monkeypatch):
    def pinned(uri):
        return uri.replace("@main", "@" + "c" * 40)

    monkeypatch.setattr("components.resolve.sources.pinned_uri", pinned)
    monkeypatch.setattr("components.storage.source_version.pinned_uri", pinned)
    _, settings, _ = task(corpus_uri="hf://datasets/o/n@main/wiki")
    assert json.loads(settings["corpus"])["config"]["uri"] == f"hf://datasets/o/n@{'c' * 40}/wiki"


def test_a_normal_run_asks_no_registry(task, monkeypatch):
    monkeypatch.setattr(novelty, "corpus_versions", lambda name: pytest.fail("asked"))
    decision, settings, texts = task()
    assert decision == "train"
    resolved = json.loads(texts["resolved"])
    assert (resolved["decision"], resolved["corpus_version"]) == ("train", version_in(settings))
    assert texts["card"].startswith("# This run goes on")
    assert json.loads(texts["metrics"]) == {"tasks": len(TASKS), "is_new_corpus": 1}
    assert texts["shown"] == texts["metrics"]


@pytest.mark.parametrize(
    ("known", "decision", "words"),
    [
        pytest.param({}, "train", "has no champion yet", id="no model"),
        pytest.param({"champion": ("3", "")}, "train", "is new to", id="champion from before versions"),
        pytest.param({"champion": ("3", "other")}, "train", "is new to", id="another corpus"),
        pytest.param({"champion": ("3", "now")}, "known", "version 3 .* is the champion", id="this corpus"),
        pytest.param(
            {"champion": ("3", "other"), "challenger": ("4", "now")}, "known", "version 4 .* judged", id="refused one"
        ),
        pytest.param({"champion": ("3", "other"), "previous": ("2", "now")}, "train", "is new to", id="an older one"),
    ],
)
def test_what_the_registry_knows_decides(task, monkeypatch, capsys, known, decision, words):
    now = version_in(task()[1])
    versions = {alias: (number, now if version == "now" else version) for alias, (number, version) in known.items()}
    monkeypatch.setattr(novelty, "corpus_versions", lambda name: versions)
    decided, settings, texts = task(only_new_corpus="yes", model_name="m")
    assert (decided, len(settings)) == (decision, len(TASKS))
    import re

    assert re.search(words, json.loads(texts["resolved"])["reason"])
    assert re.search(words, capsys.readouterr().out)
    assert re.search(words, texts["card"])
    assert json.loads(texts["metrics"])["is_new_corpus"] == (decision == "train")


def test_the_model_that_is_asked_about_is_the_one_that_will_be_registered(task, monkeypatch):
    asked = []
    monkeypatch.setattr(novelty, "corpus_versions", lambda name: asked.append(name) or {})
    task(only_new_corpus="yes", model_name="m", overrides='register.model_name="other"')
    assert asked == ["other"]


def test_two_unknown_versions_are_not_one_corpus(monkeypatch):
    monkeypatch.setattr(novelty, "corpus_versions", lambda name: {"champion": ("3", "")})
    assert novelty.novelty(True, "m", "").decision == "train"


def test_the_registry_is_read_as_the_register_step_writes_it(registry_uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry_uri)
    client, name = open_client(registry_uri), f"m-{uuid4()}"
    assert corpus_versions(name) == {}
    client.create_registered_model(name)
    for tags in ({"corpus_version": "abc"}, {}):
        client.create_model_version(name, "file:///x", tags=tags)
    client.set_registered_model_alias(name, "champion", "1")
    client.set_registered_model_alias(name, "challenger", "2")
    assert corpus_versions(name) == {"champion": ("1", "abc"), "challenger": ("2", "")}


def test_only_a_run_that_goes_on_gets_an_mlflow_run(task, registry_uri, monkeypatch):
    opened = []
    monkeypatch.setattr(main, "open_parent", lambda: opened.append(1) or "http://mlflow/run")
    now = version_in(task()[1])
    assert opened == [1]
    monkeypatch.setattr(novelty, "corpus_versions", lambda name: {"champion": ("1", now)})
    task(only_new_corpus="yes")
    assert opened == [1]


def unknown(*_):
    raise VersionUnknown("The server of x tells nothing")


def away(*_):
    raise TrackingError("http://mlflow: refused")


@pytest.mark.parametrize(
    ("attribute", "trouble", "exit_code", "words"),
    [
        pytest.param("components.resolve.sources.source_version", unknown, 2, "tells nothing", id="no version"),
        pytest.param("components.resolve.novelty.corpus_versions", away, 75, "tracking: http", id="registry away"),
    ],
)
def test_a_scheduled_run_that_cannot_tell_new_from_known_fails(
    task, monkeypatch, capsys, attribute, trouble, exit_code, words
):
    monkeypatch.setattr(attribute, trouble)
    with pytest.raises(SystemExit) as ended:
        task(only_new_corpus="yes")
    assert ended.value.code == exit_code
    assert words in capsys.readouterr().err


def test_any_other_run_goes_on_and_says_that_changes_will_not_be_seen(task, monkeypatch, capsys):
    monkeypatch.setattr("components.resolve.sources.source_version", unknown)
    _, settings, _ = task()
    assert version_in(settings) == ""
    assert "will not be noticed" in capsys.readouterr().out


def test_a_missing_corpus_ends_the_run_here_and_leaves_a_record(task, corpus, tmp_path, capsys):
    corpus.unlink()
    with pytest.raises(SystemExit) as ended:
        task()
    assert ended.value.code == 2
    record = json.loads((tmp_path / "runs" / "r1" / "failures" / "resolve.json").read_text())
    assert (record["type"], record["task"]) == ("MissingError", "resolve")


def test_what_people_typed_opens_nothing_on_the_card(task, tmp_path):
    hostile = tmp_path / "a`|<script>[x](x).jsonl"
    hostile.write_text(LINE)
    card = task(corpus_uri=str(hostile))[2]["card"]
    (row,) = [line for line in card.splitlines() if "in: corpus" in line]
    assert row.count("`") == 2
    assert row.replace("\\|", "").count("|") == 3


def test_lines_of_overrides_are_one_row_of_the_card(task):
    _, _, texts = task(overrides="train.steps=3\ntrain.seed=4")
    assert "\n| overrides | `train.steps=3 train.seed=4` |\n" in texts["card"]
    assert f"\n\n`{json.loads(texts['resolved'])['reason']}`\n\n" in texts["card"]
