"""The exact published formats, from a folder and from a stand-in for the hub: FlashRAG sets, the ready-made Parquet."""

import gzip
import hashlib
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from components.contracts.errors import QuestionError
from components.contracts.question import SEVEN_SETS, Question
from components.contracts.step import StepContext
from components.questions.config import QuestionsConfig
from components.questions.main import run
from components.questions.split import text_key
from components.storage import fetch

HOTPOT_METADATA = {
    "type": "bridge",
    "level": "hard",
    "supporting_facts": {"title": ["Ada Quill", "Port Marl"], "sent_id": [0, 2]},
    "context": {"title": ["Ada Quill"], "sentences": [["Ada Quill was a cartographer. " * 100]]},
}
METADATA = {
    "popqa": {"subj": "Ada Quill", "prop": "occupation", "obj": "cartographer", "s_pop": 142, "possible_answers": "[]"},
    "hotpotqa": HOTPOT_METADATA,
    "2wikimultihopqa": {"type": "compositional", "evidences": [["Ada Quill", "born in", "Port Marl"]]},
}
SPLIT_OF = dict.fromkeys(SEVEN_SETS, "test") | dict.fromkeys(["hotpotqa", "2wikimultihopqa", "musique"], "dev")


def flashrag_row(set_name: str, split: str, index: int) -> dict:
    """As published: an id that other sets have too, no question mark in NQ, metadata in some sets only."""
    mark = "" if set_name == "nq" else "?"
    row = {
        "id": f"{split}_{index}",
        "question": f"which {set_name} thing has the {split} number {index}{mark}",
        "golden_answers": [f"thing {index}", f"Ding {index}"],
    }
    return row | ({"metadata": METADATA[set_name]} if set_name in METADATA else {})


def flashrag_files() -> dict[str, bytes]:
    names = [f"{name}/{split}.jsonl" for name, split in SPLIT_OF.items()] + ["nq/train.jsonl", "hotpotqa/train.jsonl"]
    files = {"README.md": b"# FlashRAG", "retrieval-corpus/wiki18_100w.zip": b"PK"}
    for path in names:
        set_name, split = path.removesuffix(".jsonl").split("/")
        rows = [flashrag_row(set_name, split, i) for i in range(12 if split == "train" else 4)]
        files[path] = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return files


def parquet_row(set_name: str, split: str, index: int, text: str = "") -> dict:
    """A row of the ready-made set: the trainer's columns beside those of the source, a question mark everywhere."""
    source = flashrag_row(set_name, split, index)
    question = text or source["question"].rstrip("?") + "?"
    return {
        "id": source["id"],
        "question": question,
        "golden_answers": source["golden_answers"],
        "data_source": set_name,
        "prompt": [{"role": "user", "content": f"Answer the given question. Question: {question}\n"}],
        "ability": "fact-reasoning",
        "reward_model": {"ground_truth": {"target": source["golden_answers"]}, "style": "rule"},
        "extra_info": {"index": index, "split": split},
        "metadata": {"type": "bridge", "level": "hard"} if set_name == "hotpotqa" else None,
    }


def put_parquet(path: Path, rows: list[dict], without: tuple[str, ...] = ()) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist([{key: row[key] for key in row if key not in without} for row in rows])
    pyarrow.parquet.write_table(table, path)


def ready_made(folder: Path, **options) -> Path:
    train = [parquet_row(name, "train", i) for name in ("nq", "hotpotqa") for i in range(12)]
    put_parquet(folder / "train.parquet", train, **options)
    put_parquet(folder / "test.parquet", [parquet_row(n, s, i) for n, s in SPLIT_OF.items() for i in range(4)])
    return folder


def published_flashrag(folder: Path) -> Path:
    for name, data in flashrag_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def step_run(tmp_path: Path, **settings):
    config = QuestionsConfig.parse({"dev_questions": 3} | settings)
    return run(config, StepContext("questions", f"file://{tmp_path}/runs", "0" * 64, config.sha256()))


def questions_of(result, name: str) -> list[Question]:
    return [Question.model_validate_json(line) for line in (fetch(result.manifest) / name).open()]


def test_flashrag_sets_as_published(tmp_path):
    result = step_run(tmp_path, uri=str(published_flashrag(tmp_path / "source")))
    assert result.manifest.metadata["splits"] == SPLIT_OF
    every = [question for name in SEVEN_SETS for question in questions_of(result, f"test/{name}.jsonl")]
    assert [question.id for question in every[:2]] == ["nq:0", "nq:1"]
    assert len({question.id for question in every}) == len(every) == 28
    assert len({question.metadata["source_id"] for question in every}) == 8
    hotpot = questions_of(result, "test/hotpotqa.jsonl")[0].metadata
    assert hotpot == {key: HOTPOT_METADATA[key] for key in ("type", "level", "supporting_facts")} | {
        "source_id": "dev_0"
    }
    assert result.manifest.counts["train"] == 18
    assert result.manifest.counts["dev"] == 6


def test_no_test_question_or_its_duplicate_is_trained_on(tmp_path):
    source = published_flashrag(tmp_path / "source")
    variants = ["Which NQ thing has the test number 1?!", "which  popqa thing has a test number 2", "own one"]
    rows = [{"id": f"train_{i}", "question": text, "golden_answers": ["x"]} for i, text in enumerate(variants)]
    with (source / "hotpotqa" / "train.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    # A question of both training sets: in the dev split of the one it may not be trained on in the other.
    shared = json.loads((source / "nq" / "train.jsonl").read_text().splitlines()[5])["question"]
    (source / "hotpotqa" / "train.jsonl").open("a").write(
        json.dumps({"question": shared.upper(), "golden_answers": ["x"]}) + "\n"
    )
    for seed in range(6):
        result = step_run(tmp_path, uri=str(source), split_seed=seed)
        test = {text_key(q.question) for name in SEVEN_SETS for q in questions_of(result, f"test/{name}.jsonl")}
        train = {text_key(q.question) for q in questions_of(result, "train.jsonl")}
        dev = {text_key(q.question) for q in questions_of(result, "dev.jsonl")}
        assert not test & train and not test & dev and not train & dev
        assert result.manifest.counts["leaked"] == 2
        assert result.manifest.metadata["leaks"] == {"hotpotqa": {"nq": 1, "popqa": 1}}


def test_the_ready_made_parquet_holds_all_sets_of_a_split(tmp_path):
    result = step_run(tmp_path, uri=str(ready_made(tmp_path / "source")))
    assert result.manifest.counts["train/nq"] == result.manifest.counts["train/hotpotqa"] == 9
    assert set(result.manifest.metadata["splits"].values()) == {"test"}
    test = questions_of(result, "test/musique.jsonl")
    assert [question.id for question in test] == [f"musique:{i}" for i in range(4)]
    assert test[0].golden_answers == ("thing 0", "Ding 0")
    hotpot = [q for q in questions_of(result, "train.jsonl") if q.set_name == "hotpotqa"]
    assert hotpot[0].metadata == {"type": "bridge", "level": "hard", "source_id": hotpot[0].metadata["source_id"]}
    assert hotpot[0].id.startswith("hotpotqa:train-")


def test_both_formats_give_the_same_questions(tmp_path):
    """The Parquet was made from the FlashRAG files: same texts but for the mark, same answers, same composite ids."""
    plain = step_run(tmp_path, uri=str(published_flashrag(tmp_path / "a")))
    ready = step_run(tmp_path, uri=str(ready_made(tmp_path / "b")))
    for name in ("train.jsonl", "dev.jsonl", "test/nq.jsonl"):
        ours = [(q.id, text_key(q.question), q.golden_answers) for q in questions_of(plain, name)]
        theirs = [(q.id, text_key(q.question), q.golden_answers) for q in questions_of(ready, name)]
        assert ours == theirs


def test_gold_answers_may_stand_in_the_reward_column_alone(tmp_path):
    source = ready_made(tmp_path / "source", without=("golden_answers",))
    result = step_run(tmp_path, uri=str(source), test_sets=["nq"])
    assert questions_of(result, "train.jsonl")[0].golden_answers[0].startswith("thing ")


def test_training_sets_from_another_source(tmp_path):
    uris = {"uri": str(published_flashrag(tmp_path / "a")), "train_uri": str(ready_made(tmp_path / "b"))}
    result = step_run(tmp_path, **uris)
    assert result.manifest.metadata["splits"] == SPLIT_OF
    assert result.manifest.metadata["train_source"] == uris["train_uri"]
    assert {"nq/test.jsonl", "train.parquet"} <= set(result.manifest.metadata["source_sha256"])


def test_gzipped_lines(tmp_path):
    data = flashrag_files()["nq/test.jsonl"]
    (tmp_path / "source" / "nq").mkdir(parents=True)
    (tmp_path / "source" / "nq" / "test.jsonl.gz").write_bytes(gzip.compress(data))
    result = step_run(tmp_path, uri=str(tmp_path / "source"), test_sets=["nq"], train_sets=[])
    assert result.manifest.counts["test"] == 4
    (tmp_path / "source" / "nq" / "test.jsonl.gz").write_bytes(gzip.compress(data)[:-12])
    with pytest.raises(QuestionError, match=r"test\.jsonl\.gz is damaged.*\n.*download it again"):
        step_run(tmp_path, uri=str(tmp_path / "source"), test_sets=["nq"], train_sets=[])


def test_a_damaged_parquet_is_named(tmp_path):
    source = ready_made(tmp_path / "source")
    (source / "test.parquet").write_bytes((source / "test.parquet").read_bytes()[:-40])
    with pytest.raises(QuestionError, match=r"test\.parquet is damaged"):
        step_run(tmp_path, uri=str(source))


def test_digests_are_recorded_and_checked(tmp_path):
    source = published_flashrag(tmp_path / "source")
    digest = hashlib.sha256((source / "nq" / "test.jsonl").read_bytes()).hexdigest()
    settings = {"uri": str(source), "test_sets": ["nq"], "train_sets": []}
    result = step_run(tmp_path, **settings, source_sha256={"nq/test.jsonl": digest})
    assert result.manifest.metadata["source_sha256"] == {"nq/test.jsonl": digest}
    with pytest.raises(QuestionError, match=r"nq/test\.jsonl has the SHA-256"):
        step_run(tmp_path, **settings, source_sha256={"nq/test.jsonl": "0" * 64})
    with pytest.raises(QuestionError, match=r"No file nq/other\.jsonl was read"):
        step_run(tmp_path, **settings, source_sha256={"nq/other.jsonl": digest})


def test_a_file_that_both_sources_have_is_recorded_and_checked_in_each(tmp_path):
    """HotpotQA is tested on its dev file, and the training source has one of that name too."""
    ours, theirs = (published_flashrag(tmp_path / name) for name in "ab")
    changed = theirs / "hotpotqa" / "dev.jsonl"
    changed.write_text(changed.read_text().replace(" number ", " no. "))
    settings = {"uri": str(ours), "train_uri": str(theirs), "test_sets": ["hotpotqa"], "train_sets": ["hotpotqa"]}
    digests = {
        "hotpotqa/dev.jsonl": hashlib.sha256((ours / "hotpotqa" / "dev.jsonl").read_bytes()).hexdigest(),
        "train_uri:hotpotqa/dev.jsonl": hashlib.sha256(changed.read_bytes()).hexdigest(),
        "train_uri:hotpotqa/train.jsonl": hashlib.sha256(
            (theirs / "hotpotqa" / "train.jsonl").read_bytes()
        ).hexdigest(),
    }
    result = step_run(tmp_path, **settings, source_sha256=digests)
    assert result.manifest.metadata["source_sha256"] == digests
    wrong = digests | {"train_uri:hotpotqa/dev.jsonl": digests["hotpotqa/dev.jsonl"]}
    with pytest.raises(QuestionError, match=r"train_uri:hotpotqa/dev\.jsonl has the SHA-256"):
        step_run(tmp_path, **settings, source_sha256=wrong)


def test_a_sample_says_that_it_is_one(tmp_path):
    source = str(published_flashrag(tmp_path / "source"))
    result = step_run(tmp_path, uri=source, test_sets=["nq", "popqa"], max_test_questions=3, train_sets=["nq"])
    assert result.manifest.metadata["sampled"] == {
        "test/nq": {"questions": 3, "of": 4, "seed": 42},
        "test/popqa": {"questions": 3, "of": 4, "seed": 42},
    }
    assert "| nq | 3 of 4 (seed 42) | test | 9 | 3 |" in result.card
    assert step_run(tmp_path, uri=source).manifest.metadata["sampled"] == {}


def test_absent_sets_may_be_skipped(tmp_path):
    source = published_flashrag(tmp_path / "source")
    for name in ("nq/train.jsonl", "bamboogle/test.jsonl"):
        (source / name).unlink()
    result = step_run(tmp_path, uri=str(source), absent_sets="skip")
    assert result.manifest.metadata["absent"] == ["test/bamboogle", "train/nq"]
    assert result.manifest.metadata["train_sets"] == ["hotpotqa"]


def test_malformed_rows_may_be_left_out(tmp_path, capsys):
    source = published_flashrag(tmp_path / "source")
    with (source / "nq" / "test.jsonl").open("a") as file:
        rows = [{"question": "no gold", "golden_answers": []}, flashrag_row("nq", "test", 6)]
        file.write("{oops\n" + "".join(json.dumps(row) + "\n" for row in rows))
    settings = {"uri": str(source), "test_sets": ["nq"], "train_sets": []}
    result = step_run(tmp_path, **settings, max_malformed_rows=2)
    assert result.manifest.metadata["malformed"] == {"nq/test.jsonl": 2}
    # Counted over all rows: a question keeps its id whatever becomes of the rows before it.
    assert [question.id for question in questions_of(result, "test/nq.jsonl")][3:] == ["nq:3", "nq:6"]
    assert "line 5: not JSON" in capsys.readouterr().out
    with pytest.raises(QuestionError, match="2 malformed questions"):
        step_run(tmp_path, **settings, max_malformed_rows=1)


HUB_CLIENT = """
import json, sys
from components.contracts.step import StepContext
from components.questions.config import QuestionsConfig
from components.questions.main import run

uris = {"uri": "hf://datasets/owner/name@main", "train_uri": "hf://datasets/owner/name@v1"}
config = QuestionsConfig.parse(uris | {"dev_questions": 3})
result = run(config, StepContext("questions", f"file://{sys.argv[1]}", "0" * 64, config.sha256()))
print(json.dumps({"digest": result.manifest.digest} | result.manifest.metadata | result.manifest.counts))
"""


def test_flashrag_sets_from_the_hub_pinned_and_again_offline(tmp_path, hub):
    hub.files |= flashrag_files()
    first = hub.python(HUB_CLIENT, str(tmp_path / "runs"))
    found = json.loads(first.stdout or pytest.fail(first.stderr))
    assert found["source"] == found["train_source"] == "hf://datasets/owner/name@c0ffee" + "0" * 34
    assert (found["test"], found["train"], found["splits"]) == (28, 18, SPLIT_OF)
    assert not [path for path in hub.requests if path.endswith(".zip")]
    hub.requests.clear()
    again = hub.python(HUB_CLIENT, str(tmp_path / "other"), offline=True)
    assert json.loads(again.stdout or pytest.fail(again.stderr)) == found
    assert hub.requests == []
