"""Inspects a published corpus, its index and a published set of questions; trains nothing."""

import tempfile
from pathlib import Path

from components.contracts.errors import ManifestError
from components.contracts.manifest import Manifest
from components.contracts.step import Step, StepContext, StepResult
from components.inspect.answers import AnswersSought, open_answers
from components.inspect.config import InspectConfig
from components.inspect.inspection import Inspection
from components.inspect.inspection_page import inspection_page
from components.inspect.passages import token_counter, walk_corpus
from components.inspect.question_sets import read_sets, report_sets
from components.inspect.retrieval import report_search
from components.inspect.tables import terminal_text
from components.search.open import open_searcher
from components.storage import fetch, publish

FILES = ("inspection.json", "inspection.txt", "report.html")


def run(
    config: InspectConfig, context: StepContext, corpus: Manifest, index: Manifest, questions: Manifest
) -> StepResult:
    """Return the manifest of the inspection: `inspection.json`, `inspection.txt` and `report.html`.

    Raises:
        ManifestError: an input is of another kind, or the index is not that of the corpus.
        MissingError: there is no tokenizer of that name.
        SearchError: the search engine failed.
    """
    _check_inputs(corpus, index, questions)
    inspection = inspect_data(config, corpus, index, questions)
    contents = (inspection.to_json(), terminal_text(inspection) + "\n", inspection_page(inspection))
    with tempfile.TemporaryDirectory() as folder:
        for name, content in zip(FILES, contents, strict=True):
            (Path(folder) / name).write_text(content, encoding="utf-8")
        manifest = publish(
            Path(folder),
            storage_root=context.storage_root,
            kind="inspection",
            produced_by=context.produced_by(),
            inputs={"corpus": corpus, "index": index, "questions": questions},
            counts={"findings": len(inspection.findings())},
        )
    return StepResult(manifest, card=f"```\n{contents[1]}```\n", html=contents[2])


def inspect_data(config: InspectConfig, corpus: Manifest, index: Manifest, questions: Manifest) -> Inspection:
    """Return what was found in the data.

    Raises:
        MissingError: there is no tokenizer of that name.
        SearchError: the search engine failed.
    """
    sets = read_sets(questions, fetch(questions))
    answers = {answer for group in sets.values() for question in group for answer in open_answers(question)}
    sought = AnswersSought(answers)
    passages = walk_corpus(corpus, fetch(corpus), sought, config)
    searcher = open_searcher(index)
    searches = [report_search(label, group, sought.found, searcher, config) for label, group in sets.items()]
    facts = questions.metadata
    sources = {"corpus": corpus.metadata.get("source", corpus.uri), "questions": facts.get("source", questions.uri)}
    sources |= {"train_questions": facts["train_source"]} if "train_source" in facts else {}
    return Inspection(
        passages=passages,
        sets=tuple(report_sets(sets, questions, config.long_answer_words)),
        searches=tuple(searches),
        leaks=facts.get("leaks", {}),
        leaked=int(questions.counts.get("leaked", 0)),
        malformed=facts.get("malformed", {}),
        absent=tuple(facts.get("absent", ())),
        sources=sources,
    )


def check(config: InspectConfig) -> None:
    """Find now what would stop an inspection after the index was built.

    Raises:
        MissingError: there is no tokenizer of that name.
    """
    token_counter(config.tokenizer)


def _check_inputs(corpus: Manifest, index: Manifest, questions: Manifest) -> None:
    for manifest, kind in ((corpus, "corpus"), (index, "index"), (questions, "questions")):
        if manifest.kind != kind:
            raise ManifestError(f"The manifest at {manifest.uri} is of kind {manifest.kind!r}", kind)
    if index.inputs.get("corpus") != corpus.digest:
        raise ManifestError(f"The index at {index.uri} is of another corpus than {corpus.uri}")


step = Step("inspect", InspectConfig, run)
