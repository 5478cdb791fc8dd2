"""Questions step: read and validate the sets, keep test, dev and train apart, publish one file per role and set."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from components.contracts.errors import QuestionError
from components.contracts.manifest import Manifest
from components.contracts.question import Question
from components.contracts.step import Step, StepContext, StepResult
from components.fictional_world.uri import SCHEME, world_of_uri
from components.fictional_world.writer import write_world
from components.questions.config import QuestionsConfig
from components.questions.layout import ALLOWED, SPLITS, candidates, evaluated_split, split_file
from components.questions.read import read_questions
from components.questions.split import cut_dev, limited, of_kinds, without
from components.storage import publish
from components.storage.source import fetch_source, public_uri
from components.storage.work import work_folder


@dataclass
class _Roles:
    """Every question by role and set, and what was taken out."""

    test: dict[str, list[Question]] = field(default_factory=dict)
    train: dict[str, list[Question]] = field(default_factory=dict)
    dev: dict[str, list[Question]] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    num_leaked: int = 0


def run(config: QuestionsConfig, context: StepContext) -> StepResult:
    """Return the manifest of the question files; nothing is published when anything is wrong with them."""
    with work_folder(context.work_uri({})) as work, tempfile.TemporaryDirectory(dir=work) as output:
        roles = _assign(config, _source_folder(config, work / "source"))
        _write(Path(output), roles)
        manifest = publish(
            Path(output),
            storage_root=context.storage_root,
            kind="questions",
            produced_by=context.produced_by(),
            counts=_counts(roles),
            metadata={"source": public_uri(config.uri), "splits": roles.splits, "train_sets": list(config.train_sets)},
        )
    return StepResult(manifest, card=_card(manifest, roles), metrics=_metrics(manifest))


def _source_folder(config: QuestionsConfig, folder: Path) -> Path:
    if config.uri.startswith(SCHEME):
        size, seed = world_of_uri(config.uri)
        write_world(folder, size=size, seed=seed)
        return folder / "questions"
    sets = {*config.test_sets, *config.train_sets}
    wanted = {name for set_name in sets for split in SPLITS for name in candidates(set_name, split)}
    source = fetch_source(config.uri, folder, wanted.__contains__)
    if not source.is_dir():
        raise QuestionError(f"{source} is a file", f"a folder with {ALLOWED}", "name the folder in questions.uri")
    return source


def _assign(config: QuestionsConfig, folder: Path) -> _Roles:
    roles, every_test = _Roles(), []
    for name in config.test_sets:
        roles.splits[name] = evaluated_split(folder, name)
        questions = read_questions(_file(folder, name, roles.splits[name]), name)
        # A question left out by the limit is still a test question: nobody may train on it.
        every_test += questions
        roles.test[name] = limited(questions, config.max_test_questions, config.split_seed)
    for name in config.train_sets:
        train, dev = _training(config, folder, name, roles.splits.get(name, ""))
        clean_train, clean_dev = without(train, every_test), without(dev, every_test)
        roles.num_leaked += len(train) - len(clean_train) + len(dev) - len(clean_dev)
        train, dev = clean_train, limited(clean_dev, config.dev_questions, config.split_seed)
        if len(dev) < config.dev_questions:
            train, more = cut_dev(train, config.dev_questions - len(dev), config.split_seed)
            dev += more
        roles.dev[name] = dev
        roles.train[name] = limited(without(train, dev), config.max_train_questions, config.split_seed)
        if not roles.train[name]:
            raise QuestionError(
                f"No question of {name!r} is left to train on, after {len(dev)} for dev",
                remedy="lower questions.dev_questions, or check questions.train_kinds",
            )
    if roles.num_leaked and config.leaked == "error":
        raise QuestionError(
            f"{roles.num_leaked} training or dev questions are also test questions",
            remedy="clean the source, or set questions.leaked=remove",
        )
    return roles


def _training(
    config: QuestionsConfig, folder: Path, name: str, split_for_test: str
) -> tuple[list[Question], list[Question]]:
    """Return the train file's questions and those of the dev file, of the kinds asked for; each file in one role."""
    if split_for_test == "train":
        raise QuestionError(
            f"The only file of {name!r} is its train file, and it cannot be tested and trained on",
            remedy="take it out of questions.test_sets or questions.train_sets",
        )
    train = read_questions(_file(folder, name, "train"), name, "train-")
    has_dev = split_for_test != "dev" and split_file(folder, name, "dev")
    dev = read_questions(_file(folder, name, "dev"), name, "dev-") if has_dev else []
    return of_kinds(train, config.train_kinds), of_kinds(dev, config.train_kinds)


def _file(folder: Path, set_name: str, split: str) -> Path:
    path = split_file(folder, set_name, split)
    if path is None:
        raise QuestionError(
            f"{folder} has no {split} file of the set {set_name!r}",
            " or ".join(candidates(set_name, split)),
            "correct questions.uri, or take the set out of questions.train_sets (none: evaluation only)",
        )
    return path


def _write(folder: Path, roles: _Roles) -> None:
    (folder / "test").mkdir()
    files = {f"test/{name}.jsonl": questions for name, questions in roles.test.items()}
    files["train.jsonl"] = [question for questions in roles.train.values() for question in questions]
    files["dev.jsonl"] = [question for questions in roles.dev.values() for question in questions]
    for name, questions in files.items():
        text = "".join(question.model_dump_json() + "\n" for question in questions)
        (folder / name).write_text(text, encoding="utf-8")


def _counts(roles: _Roles) -> dict[str, float]:
    counts: dict[str, float] = {"leaked": roles.num_leaked}
    for role, sets in (("test", roles.test), ("train", roles.train), ("dev", roles.dev)):
        counts |= {f"{role}/{name}": len(questions) for name, questions in sets.items()}
        counts[role] = sum(map(len, sets.values()))
    return counts


def _metrics(manifest: Manifest) -> dict[str, float]:
    return {f"{role}_questions": manifest.counts[role] for role in ("test", "train", "dev", "leaked")}


def _card(manifest: Manifest, roles: _Roles) -> str:
    names = list(dict.fromkeys([*roles.test, *roles.train]))
    rows = [
        f"| {name} | {len(roles.test.get(name, []))} | {roles.splits.get(name, '-')} "
        f"| {len(roles.train.get(name, []))} | {len(roles.dev.get(name, []))} |"
        for name in names
    ]
    table = "\n".join(["| set | test | from | train | dev |", "|---|---|---|---|---|", *rows])
    return (
        f"# Questions\n\nFrom `{manifest.metadata['source']}`; {roles.num_leaked} training or dev questions taken out "
        f"because they are test questions.\n\n{table}\n\nDigest `{manifest.digest[:16]}`\n"
    )


step = Step("questions", QuestionsConfig, run)
