"""Questions step: read and validate the sets, keep test, dev and train apart, publish one file per role and set."""

import tempfile
from pathlib import Path

from components.contracts.errors import QuestionError
from components.contracts.manifest import Manifest
from components.contracts.question import Question
from components.contracts.step import Step, StepContext, StepResult
from components.fictional_world.uri import SCHEME, world_of_uri
from components.fictional_world.writer import write_world
from components.questions.config import QuestionsConfig
from components.questions.layout import ALLOWED, SPLITS, candidates
from components.questions.roles import Roles, assign
from components.storage import publish
from components.storage.failures import TaskFailures
from components.storage.source import fetch_source, pinned_uri, public_uri
from components.storage.work import work_folder


def run(config: QuestionsConfig, context: StepContext) -> StepResult:
    """Return the manifest of the question files; nothing is published when anything is wrong with them."""
    with work_folder(context.work_uri({})) as work, tempfile.TemporaryDirectory(dir=work) as output:
        uri, train_uri = pinned_uri(config.uri), pinned_uri(config.train_uri)
        source = _source_folder(uri, {*config.test_sets, *config.train_sets}, work / "source")
        train_source = _source_folder(train_uri, set(config.train_sets), work / "train") if train_uri else source
        roles = assign(config, source, train_source)
        _write(Path(output), roles)
        sources = {"source": public_uri(uri)} | ({"train_source": public_uri(train_uri)} if train_uri else {})
        manifest = publish(
            Path(output),
            storage_root=context.storage_root,
            kind="questions",
            produced_by=context.produced_by(),
            counts=_counts(roles),
            metadata=sources | roles.facts() | {"train_sets": list(roles.train)},
        )
    return StepResult(manifest, card=_card(manifest, roles), metrics=_metrics(manifest))


def _source_folder(uri: str, sets: set[str], folder: Path) -> Path:
    if uri.startswith(SCHEME):
        size, seed = world_of_uri(uri)
        write_world(folder, size=size, seed=seed)
        return folder / "questions"
    wanted = {name for set_name in sets for split in SPLITS for name in candidates(set_name, split)}
    source = fetch_source(uri, folder, wanted.__contains__)
    if not source.is_dir():
        raise QuestionError(f"{source} is a file", f"a folder with {ALLOWED}", "name the folder in questions.uri")
    return source


def _write(folder: Path, roles: Roles) -> None:
    (folder / "test").mkdir()
    files = {f"test/{name}.jsonl": questions for name, questions in roles.test.items()}
    files["train.jsonl"] = _every(roles.train)
    files["dev.jsonl"] = _every(roles.dev)
    for name, questions in files.items():
        text = "".join(question.model_dump_json() + "\n" for question in questions)
        (folder / name).write_text(text, encoding="utf-8")


def _every(sets: dict[str, list[Question]]) -> list[Question]:
    return [question for questions in sets.values() for question in questions]


def _counts(roles: Roles) -> dict[str, float]:
    counts: dict[str, float] = {"leaked": roles.num_leaked}
    for role, sets in (("test", roles.test), ("train", roles.train), ("dev", roles.dev)):
        counts |= {f"{role}/{name}": len(questions) for name, questions in sets.items()}
        counts[role] = sum(map(len, sets.values()))
    return counts


def _metrics(manifest: Manifest) -> dict[str, float]:
    return {f"{role}_questions": manifest.counts[role] for role in ("test", "train", "dev", "leaked")}


def _card(manifest: Manifest, roles: Roles) -> str:
    names = list(dict.fromkeys([*roles.test, *roles.train]))
    rows = [
        f"| {name} | {_size(roles, 'test', name)} | {roles.splits.get(name, '-')} "
        f"| {_size(roles, 'train', name)} | {len(roles.dev.get(name, []))} |"
        for name in names
    ]
    table = "\n".join(["| set | test | from | train | dev |", "|---|---|---|---|---|", *rows])
    return (
        f"# Questions\n\nFrom `{manifest.metadata['source']}`; {roles.num_leaked} training or dev questions taken out "
        f"because they are test questions.\n\n{table}\n"
    )


def _size(roles: Roles, role: str, name: str) -> str:
    """Return the number of questions, and for a sample of how many it was drawn by which seed."""
    sample = roles.sampled.get(f"{role}/{name}")
    questions = (roles.test if role == "test" else roles.train).get(name, [])
    return f"{len(questions)} of {sample['of']} (seed {sample['seed']})" if sample else str(len(questions))


step = Step("questions", QuestionsConfig, run, TaskFailures.of_environment)
