"""`searchr1 evaluate`: what a person asks for becomes the inputs and settings of the evaluate step, and runs."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from components.contracts.config import StepConfig
from components.contracts.errors import UserError
from components.contracts.manifest import Manifest
from components.contracts.step import Step, StepContext, StepResult
from components.evaluate.subject import Subject, find_subject, possible_methods, stored_index
from components.storage import fetch, read_manifest

EVERY_METHOD = "all"
_QUESTIONS_ONLY = ("questions.train_sets=[]", "questions.dev_questions=0", 'questions.absent_sets="skip"')
"""Whatever sets there are, and nothing to train on."""


@dataclass(frozen=True)
class Request:
    """The options of the command; empty text stands for what the model brings."""

    model: str
    methods: str
    """Names separated by commas, or `all`."""
    questions: str
    corpus: str
    index: str
    base_model: str
    preset: str
    overrides: tuple[str, ...]
    runs_dir: Path
    """Folder of runs and data."""
    output: Path | None
    """Folder of the results; None for one below `runs_dir`."""


def evaluate_request(request: Request, steps: Mapping[str, Step], resolve: Callable[..., Mapping[str, str]]) -> Path:
    """Return the folder with the files of the evaluation that `request` asks for, its manifest beside them.

    `steps` are the steps by name that make what the model does not bring; `resolve` turns a preset and overrides
    into the settings of each.

    Raises:
        UserError: the model, a method or a setting does not exist, or the model was not trained here and nothing
            says what to ask it.
        SearchR1Error: whatever one of the steps raises.
    """
    tracking_uri = _track(request.runs_dir)
    subject = find_subject(request.model, request.runs_dir, tracking_uri)
    if not subject.inputs and not (request.questions and (request.corpus or request.index)):
        raise UserError(
            f"{request.model} was not trained here, so nothing says what to ask it and where to search",
            "--questions URI together with --corpus URI or --index MANIFEST",
            "give them, for example --questions world://small?seed=7 --corpus world://small?seed=7",
        )
    evaluation = _Evaluation(request, subject, steps, resolve).run().manifest
    folder = request.output or request.runs_dir / "evaluate" / subject.name
    folder.mkdir(parents=True, exist_ok=True)
    stored = fetch(evaluation)
    for entry in evaluation.files:
        shutil.copyfile(stored / entry.path, folder / entry.path)
    evaluation.write(folder / "manifest.json")
    return folder


def _track(runs: Path) -> str:
    """Return the tracking server's URI, the one beside the runs unless another is set; evaluations are logged there."""
    database = runs.resolve() / "mlflow.db"
    if database.is_file():
        os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database}"


class _Evaluation:
    def __init__(
        self, request: Request, subject: Subject, steps: Mapping[str, Step], resolve: Callable[..., Mapping[str, str]]
    ) -> None:
        self._request, self._subject, self._steps, self._resolve = request, subject, steps, resolve

    def run(self) -> StepResult:
        methods = self._named_methods()
        # Settings are checked before anything is downloaded or indexed.
        self._settings(_methods_setting(methods))
        inputs = self._inputs()
        if not methods:
            possible, left_out = possible_methods(inputs)
            methods = list(possible)
            for sentence in left_out:
                print(sentence, flush=True)
        return self._run("evaluate", self._settings(_methods_setting(methods)), **inputs)

    def _named_methods(self) -> list[str]:
        """Return the methods named by the request and `search_r1`; none where it wants all."""
        if self._request.methods == EVERY_METHOD:
            return []
        methods = [name.strip() for name in self._request.methods.split(",") if name.strip()]
        if "search_r1" not in methods:
            print("search_r1 is added: the table compares every method with it.", flush=True)
            methods = ["search_r1", *methods]
        return methods

    def _inputs(self) -> dict[str, Manifest]:
        request, inputs = self._request, dict(self._subject.inputs)
        if request.questions:
            inputs["questions"] = self._made("questions", self._settings(*_QUESTIONS_ONLY))
        if request.index:
            inputs["index"] = read_manifest(request.index)
        elif request.corpus:
            inputs["index"] = self._index_of(self._made("corpus", self._plain_settings))
        if "checkpoint" not in inputs:
            inputs["checkpoint"] = inputs["base_model"] = self._model(request.model)
        if request.base_model:
            inputs["base_model"] = self._model(request.base_model)
        return inputs

    def _model(self, source: str) -> Manifest:
        return self._made("base_model", self._settings(f"base_model.source={json.dumps(source)}"))

    def _index_of(self, corpus: Manifest) -> Manifest:
        config, context = self._bound("index", self._plain_settings)
        stored = stored_index(context.storage_root, corpus, config.sha256(), context.code_sha256)
        return stored or self._made("index", self._plain_settings, corpus=corpus)

    @cached_property
    def _plain_settings(self) -> Mapping[str, str]:
        return self._settings()

    def _settings(self, *overrides: str) -> Mapping[str, str]:
        """Return the settings of every step; what the person sets is laid over `overrides`."""
        request = self._request
        return self._resolve(
            preset=request.preset or self._subject.preset,
            corpus_uri=request.corpus,
            questions_uri=request.questions,
            storage_root=self._subject.storage_root,
            overrides="\n".join((*overrides, *request.overrides)),
        )

    def _made(self, name: str, settings: Mapping[str, str], **inputs: Manifest) -> Manifest:
        return self._run(name, settings, **inputs).manifest

    def _run(self, name: str, settings: Mapping[str, str], **inputs: Manifest) -> StepResult:
        config, context = self._bound(name, settings)
        print(f"{name}: started", flush=True)
        return self._steps[name].run(config, context, **inputs)

    def _bound(self, name: str, settings: Mapping[str, str]) -> tuple[StepConfig, StepContext]:
        given = json.loads(settings[name])
        config = self._steps[name].config_class.parse(given["config"], where=name)
        return config, StepContext(name, given["storage_root"], given["code_sha256"], config.sha256())


def _methods_setting(methods: list[str]) -> str:
    return f"evaluate.methods={json.dumps(methods)}" if methods else ""
