"""`searchr1 inspect-data` from question files and a corpus to tables, JSON and page."""

import json
from pathlib import Path

import pytest

from pipeline.cli import main


def exit_code_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["inspect-data", *arguments])
    return ended.value.code


def put(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def data(tmp_path):
    names = ["zebra", "quartz", "violin", "harbor"]
    passages = [{"id": str(i), "contents": f'"{name}"\nThe {name} lives in town{i}.'} for i, name in enumerate(names)]
    corpus = put(tmp_path / "corpus.jsonl", [*passages, "{oops\n"])
    test = [{"question": f"Where does the {n} live?", "golden_answers": [f"town{i}"]} for i, n in enumerate(names)]
    put(tmp_path / "q" / "nq" / "test.jsonl", [*test, {"question": "Is it?", "golden_answers": ["Yes"]}, "[]\n"])
    train = [{"question": "where does the ZEBRA live", "golden_answers": ["town0"]}]
    train += [{"question": f"Who is {i}?", "golden_answers": ["nobody here"]} for i in range(3)]
    put(tmp_path / "q" / "nq" / "train.jsonl", train)
    return tmp_path / "q", corpus


def test_a_whole_inspection(tmp_path, data, capsys):
    questions, corpus = data
    output = tmp_path / "out" / "inspection"
    index = "index.threads=1, index.heap=256m"
    main(
        [
            "inspect-data",
            "--questions",
            str(questions),
            "--corpus",
            str(corpus),
            "--output",
            str(output),
            "--set",
            index,
        ]
    )
    shown = capsys.readouterr().out
    stored = json.loads((output / "inspection.json").read_text())
    test, train = stored["searches"]
    assert (test["questions"], test["in_corpus"], test["hits"]["1"]) == (4, 4, 1.0)
    assert (train["questions"], train["in_corpus"], train["hits"]["100"]) == (3, 0, 0.0)
    assert stored["leaks"] == {"nq": {"nq": 1}}
    assert stored["malformed"] == {"nq/test.jsonl": 1}
    assert stored["passages"]["malformed_lines"] == 1
    assert "test/popqa" in stored["absent"]
    assert (output / "inspection.txt").read_text().strip() in shown
    assert "line 6: not an object" in shown
    assert (output / "report.html").read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in output.parent.iterdir()) == ["inspection"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"--corpus": "absent.jsonl"}, "absent.jsonl does not exist", id="absent-corpus"),
        pytest.param({"--questions": "absent"}, "absent does not exist", id="absent-questions"),
        pytest.param({"--set": "indx.threads=1"}, "Unknown step 'indx'; did you mean 'index'?", id="step"),
        pytest.param({"--set": "inspect.budget=1"}, "did you mean 'token_budget'?", id="key"),
        pytest.param({"--set": "inspect.token_budget=0"}, "inspect.token_budget = 0", id="bound"),
        pytest.param({"--set": "questions.test_sets=['mine']"}, "no file of the set 'mine'; it has nq", id="no-set"),
        pytest.param({"--set": "inspect.tokenizer=nowhere"}, "nowhere holds no tokenizer", id="no-tokenizer"),
    ],
)
def test_what_cannot_be_inspected_ends_with_2_and_leaves_nothing(tmp_path, data, capsys, changes, says):
    questions, corpus = data
    given = {"--questions": str(questions), "--corpus": str(corpus), "--output": str(tmp_path / "out" / "x")} | changes
    if changes.get("--set", "").startswith("questions"):
        given["--set"] += ", questions.train_sets=[]"
    assert exit_code_of(*[word for pair in given.items() for word in pair]) == 2
    assert says in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if "out" in path.parts and path.is_file()] == []


REAL = Path(__file__).resolve().parents[4] / "shared" / "data"
PUBLISHED_HITS = {
    "nq": (500, 0.736, 0.836, 0.904, 0.968),
    "triviaqa": (500, 0.102, 0.138, 0.200, 0.374),
    "popqa": (500, 0.690, 0.732, 0.772, 0.826),
    "hotpotqa": (278, 0.406, 0.622, 0.806, 0.935),
    "2wikimultihopqa": (450, 0.224, 0.484, 0.636, 0.789),
    "musique": (200, 0.145, 0.275, 0.390, 0.600),
    "bamboogle": (60, 0.017, 0.033, 0.083, 0.267),
}
"""n and hit@1, 3, 10, 100 of another BM25 (bm25s) on the same files; the analyzers differ by a point or two."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not REAL.is_dir(), reason="the real sample data is not beside the project (../shared/data)")
def test_real_data_gives_the_figures_of_another_bm25(tmp_path):
    main(
        [
            *("inspect-data", "--questions", str(REAL / "questions"), "--output", str(tmp_path / "out")),
            *("--corpus", str(REAL / "corpus" / "passages.jsonl"), "--set", "index.threads=1"),
        ]
    )
    stored = json.loads((tmp_path / "out" / "inspection.json").read_text())
    assert stored["passages"]["passages"] == 22_506
    for report in stored["searches"]:
        n, *hits = PUBLISHED_HITS[report["set_name"]]
        assert report["asked"] == n
        assert list(report["hits"].values()) == pytest.approx(hits, abs=0.02)
