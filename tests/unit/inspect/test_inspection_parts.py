"""The measurements of an inspection on data whose figures are known beforehand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from components.contracts.errors import ManifestError, MissingError
from components.contracts.manifest import Manifest, ProducedBy
from components.contracts.passage import Passage, ScoredPassage
from components.contracts.question import Question
from components.contracts.step import StepContext
from components.inspect.answers import AnswersSought
from components.inspect.config import InspectConfig
from components.inspect.inspection import Inspection
from components.inspect.inspection_page import inspection_page
from components.inspect.main import run
from components.inspect.passages import spread, token_counter, walk_corpus
from components.inspect.question_sets import read_sets, report_sets
from components.inspect.retrieval import first_hits, report_search
from components.inspect.tables import tables, terminal_text
from components.storage import fetch, publish

MADE_BY = ProducedBy(step="test", version="1", git_commit="0", config_sha256="0")
HOSTILE = "<script>alert(1)</script>"


def question(text: str, *answers: str, set_name: str = "nq") -> Question:
    return Question(id=f"{set_name}:{text}", set_name=set_name, question=text, golden_answers=answers or ("x",))


class Shelf:
    """Finds passages 0, 1, 2 ... that hold their own number, whatever is asked."""

    digest = "0"

    def __init__(self, num_passages: int) -> None:
        self.found = [ScoredPassage(Passage(str(i), f'"T"\nnumber n{i}'), 1.0) for i in range(num_passages)]
        self.asked = []

    def search(self, queries, top_k):
        self.asked += queries
        return [self.found[:top_k] for _ in queries]


def published(tmp_path, kind: str, files: dict[str, list], **facts) -> Manifest:
    folder = tmp_path / f"work-{kind}"
    for name, rows in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return publish(folder, storage_root=f"file://{tmp_path}/root", kind=kind, produced_by=MADE_BY, **facts)


@pytest.fixture
def corpus(tmp_path):
    texts = ['"A"\n' + "word " * 9, '"B"\nshort text', '"B"\nshort text', "no title " * 3]
    rows = [{"id": str(i), "contents": text} for i, text in enumerate(texts)]
    counts = {"passages": 4, "malformed_lines": 2}
    return published(tmp_path, "corpus", {"c-0.jsonl": rows[:2], "c-1.jsonl": rows[2:]}, counts=counts)


def test_one_walk_measures_the_passages(corpus):
    sought = AnswersSought(["short text", "long text"])
    report = walk_corpus(corpus, fetch(corpus), sought, InspectConfig(token_budget=10))
    assert sought.found == {"short text"}
    assert (report.passages, report.malformed_lines, report.duplicates, report.untitled) == (4, 2, 1, 1)
    assert report.words.max == 10
    assert report.tokens.max == 13.0
    assert (report.over_budget, report.token_budget, report.token_measure) == (1, 10, "words x 1.3")


def test_a_tokenizer_counts_instead_of_words(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    model = tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?")
    own = tokenizers.Tokenizer(model)
    own.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    transformers.PreTrainedTokenizerFast(tokenizer_object=own).save_pretrained(tmp_path / "letters")
    count, measure = token_counter(str(tmp_path / "letters"))
    assert (count("abba"), measure) == (4.0, "letters")
    with pytest.raises(MissingError, match="holds no tokenizer"):
        token_counter(str(tmp_path))


def test_spread_says_where_the_values_lie():
    shown = spread(np.array([1, 2, 3, 4, 100]))
    assert (shown.mean, shown.median, shown.max) == (22.0, 3.0, 100.0)
    assert 4 < shown.p95 < 100


@pytest.fixture
def questions(tmp_path):
    nq = [
        question("who?", "Ada", "Ada Quill"),
        question("WHO", "Berta"),
        question("Where?", "yes"),
        question("When", "!"),
        question("What?", "a very long answer of words"),
    ]
    popqa = [question("who", "Ada", set_name="popqa"), question("Why?", set_name="popqa")]
    train = [question("Which?", set_name="nq")]
    sets = {"test/popqa.jsonl": popqa, "test/nq.jsonl": nq, "train.jsonl": train, "dev.jsonl": []}
    files = {name: [row.model_dump(mode="json") for row in rows] for name, rows in sets.items()}
    metadata = {
        "splits": {"nq": "test", "popqa": "dev"},
        "sampled": {"test/nq": {"questions": 5, "of": 9, "seed": 42}},
        "leaks": {"nq": {"popqa": 3}},
        "malformed": {f"{HOSTILE}.jsonl": 1},
        "absent": ["test/musique"],
    }
    return published(tmp_path, "questions", files, metadata=metadata, counts={"leaked": 3})


def test_sets_are_reported_in_the_order_of_the_paper(questions):
    sets = read_sets(questions, fetch(questions))
    nq, popqa, train = report_sets(sets, questions, long_answer_words=4)
    assert [(r.role, r.set_name, r.split) for r in (nq, popqa, train)] == [
        ("test", "nq", "test"),
        ("test", "popqa", "dev"),
        ("train", "nq", "train"),
    ]
    assert (nq.questions, nq.of, popqa.of) == (5, 9, 2)
    assert (nq.duplicates, nq.contradictions, nq.yes_no, nq.unanswerable, nq.long_answers) == (1, 1, 1, 1, 1)
    assert (nq.in_other_test_sets, popqa.in_other_test_sets, train.in_other_test_sets) == ({"popqa": 2}, {"nq": 1}, {})
    assert (nq.answer_words.max, nq.aliases.max) == (5.0, 2.0)
    # The shortest answer of each: 1, 1, 1, none, 5.
    assert nq.answer_words.mean == 1.6


def test_questions_that_normalise_to_nothing_are_not_one_question(tmp_path):
    rows = [question(text).model_dump(mode="json") for text in ("?!", "...")]
    made = published(tmp_path, "questions", {"test/nq.jsonl": rows, "train.jsonl": []})
    (report,) = report_sets(read_sets(made, fetch(made)), made, 4)
    assert report.duplicates == 0


def test_the_first_passage_with_an_answer_decides_the_rank():
    asked = [question("a", "n0"), question("b", "n7", "n3"), question("c", "n99"), question("d", "n9")]
    assert first_hits(Shelf(20), asked, 10, "test") == [1, 4, 0, 10]
    assert first_hits(Shelf(20), asked, 9, "test") == [1, 4, 0, 0]
    many = [question(str(i), f"n{i % 5}") for i in range(150)]
    assert first_hits(Shelf(20), many, 10, "test") == [i % 5 + 1 for i in range(150)]


def test_hits_are_shares_of_the_questions_that_can_have_one():
    asked = [question("a", "n0"), question("b", "n3"), question("c", "gone"), question("d", "yes")]
    report = report_search(("test", "nq"), asked, {"n0", "n3"}, Shelf(9), InspectConfig(top_k=(1, 5)))
    assert (report.questions, report.in_corpus, report.asked) == (3, 2, 3)
    assert report.hits == {1: pytest.approx(1 / 3), 5: pytest.approx(2 / 3)}
    assert report.ci95[5][0] < 2 / 3 < report.ci95[5][1]


def test_a_large_set_is_sampled_by_the_seed_alone():
    asked = [question(f"q{i}", "n0") for i in range(50)]
    first, again, other = Shelf(3), Shelf(3), Shelf(3)
    for shelf, seed in ((first, 1), (again, 1), (other, 2)):
        config = InspectConfig(asked_questions=10, sample_seed=seed)
        assert report_search(("test", "nq"), asked, set(), shelf, config).asked == 10
    assert first.asked == again.asked != other.asked


@pytest.fixture
def inspection(corpus, questions):
    config = InspectConfig(token_budget=10, top_k=(1, 5))
    sets = read_sets(questions, fetch(questions))
    return Inspection(
        passages=walk_corpus(corpus, fetch(corpus), AnswersSought(["x"]), config),
        sets=tuple(report_sets(sets, questions, 4)),
        searches=tuple(report_search(label, group, {"x"}, Shelf(9), config) for label, group in sets.items()),
        leaks=questions.metadata["leaks"],
        leaked=3,
        malformed=questions.metadata["malformed"],
        absent=("test/musique",),
        sources={"corpus": HOSTILE, "questions": "q"},
    )


def test_findings_name_what_should_be_looked_at(inspection):
    found = inspection.findings()
    for words in (
        "2 malformed lines of the corpus",
        "1 of 4 (25.0%) passages are there twice",
        "1 of 4 (25.0%) passages have more than 10 tokens",
        "nq are also test questions (3 in popqa)",
        "nq: 1 questions are asked again with other gold answers",
        "nq: 1 questions have no gold answer that could be matched",
        "nq: 2 questions are in the test set popqa too",
        "nq: the corpus holds no gold answer of 3 of 3 (100.0%) questions",
    ):
        assert [line for line in found if words in line], words
    assert not [line for line in found if line.startswith("nq (train)")]


@pytest.mark.parametrize(("in_corpus", "is_named"), [(89, True), (90, False)])
def test_a_set_is_named_where_the_corpus_holds_less_than_nine_answers_of_ten(inspection, in_corpus, is_named):
    searches = [replace(search, questions=100, in_corpus=100) for search in inspection.searches]
    searches[1] = replace(searches[1], in_corpus=in_corpus)
    found = replace(inspection, searches=tuple(searches)).findings()
    named = [line for line in found if "the corpus holds no gold answer" in line]
    assert named == ["popqa: the corpus holds no gold answer of 11 of 100 (11.0%) questions"] * is_named


def test_the_headline_is_the_average_of_test_sets_alone(inspection):
    """None of the three questions of nq, one of two of popqa; the training question has its answer in the corpus."""
    assert inspection.searches[2].in_corpus == inspection.searches[2].questions
    assert '<span class="value">.250</span>' in inspection_page(inspection)


def test_json_holds_everything(inspection):
    stored = json.loads(inspection.to_json())
    assert stored["schema_version"] == 1
    assert stored["sets"][0]["in_other_test_sets"] == {"popqa": 2}
    assert set(stored["searches"][0]["hits"]) == {"1", "5"}
    assert stored["findings"] == inspection.findings()


def test_terminal_tables_are_aligned(inspection):
    assert [table.title for table in tables(inspection)][-1] == "Leakage"
    for table in tables(inspection):
        _, head, rule, *rows = table.render().splitlines()[: 3 + len(table.rows)]
        assert {len(line) for line in (head, rule, *rows)} == {len(rule)}
    text = terminal_text(inspection)
    assert "5 of 9" in text
    assert "Findings\n- 2 malformed lines" in text


def test_a_leak_stands_in_the_row_of_its_training_set(inspection):
    assert tables(inspection)[-1].rows == (("nq", "0", "3"),)


def test_coverage_is_of_all_questions_also_where_some_are_asked(inspection):
    sampled = replace(inspection.searches[0], questions=40, in_corpus=30, asked=10)
    (row, *_) = tables(replace(inspection, searches=(sampled, *inspection.searches[1:])))[0].rows
    assert (row[1], row[-1]) == ("10 of 40", ".750")


@pytest.mark.parametrize(
    ("kind", "made_from", "says"),
    [
        pytest.param("predictions", "", "is of kind 'predictions'", id="another kind"),
        pytest.param("questions", "0" * 64, "is of another corpus", id="another corpus"),
    ],
)
def test_inputs_that_do_not_belong_together_are_refused(tmp_path, corpus, questions, kind, made_from, says):
    """Hits in one corpus and answers of another would be figures about neither."""
    index = corpus.model_copy(update={"kind": "index", "inputs": {"corpus": made_from or corpus.digest}})
    questions = questions.model_copy(update={"kind": kind})
    context = StepContext("inspect", f"file://{tmp_path}/root", "0" * 64, "0" * 64)
    with pytest.raises(ManifestError, match=says):
        run(InspectConfig(), context, corpus, index, questions)


def test_without_training_sets_no_leakage_is_claimed_absent(inspection):
    tested = replace(inspection, sets=inspection.sets[:2], searches=inspection.searches[:2], leaks={})
    assert "Not checked: there are no training sets" in terminal_text(tested)
    assert "leaked questions" in inspection_page(inspection)
    assert "leaked questions" not in inspection_page(tested)


def test_the_page_shows_hostile_names_and_runs_nothing(inspection):
    html = inspection_page(inspection)
    assert HOSTILE not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "default-src &#x27;none&#x27;" in html
    for title in ("At a glance", "Findings", "Leakage", "Intervals", "test/musique"):
        assert title in html
