"""A step run from files leaves its outputs in files, or an error and an exit code, never half of both."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import Field

from components.contracts.config import StepConfig
from components.contracts.errors import StorageError, UserError
from components.contracts.manifest import Manifest, ProducedBy
from components.contracts.step import ERROR_FILE_VARIABLE, Step, StepContext, StepResult

INPUT = Manifest(
    kind="corpus",
    uri="file:///x",
    files=(),
    digest="d1",
    produced_by=ProducedBy(step="corpus", version="1", git_commit="c", config_sha256="0"),
)


class CountConfig(StepConfig):
    limit: int = Field(default=3, ge=1)


def count(config: CountConfig, context: StepContext, corpus: Manifest) -> StepResult:
    """Count passages."""
    manifest = INPUT.model_copy(update={"produced_by": context.produced_by(), "inputs": {"corpus": corpus.digest}})
    return StepResult(manifest, card="# Done", metrics={"passages": config.limit}, html="<p>")


def fail_with(error: Exception):
    def run(config: CountConfig, context: StepContext) -> StepResult:
        raise error

    return run


def settings(**config: object) -> str:
    return json.dumps({"storage_root": "file:///data", "code_sha256": "c" * 64, "config": config})


def files(folder: Path) -> dict[str, str]:
    return {name: str(folder / "out" / name) for name in ("manifest", "card", "metrics", "html")}


def test_execute_reads_inputs_and_writes_outputs(tmp_path: Path) -> None:
    INPUT.write(tmp_path / "corpus.json")
    Step("count", CountConfig, count).execute(
        settings(limit=7), {"corpus": str(tmp_path / "corpus.json")}, files(tmp_path)
    )
    manifest = Manifest.read(tmp_path / "out" / "manifest")
    assert manifest.inputs == {"corpus": "d1"}
    assert manifest.produced_by.step == "count"
    assert manifest.produced_by.config_sha256 == CountConfig(limit=7).sha256()
    card = (tmp_path / "out" / "card").read_text()
    assert card.startswith("# Done\n\n")
    assert "| in: corpus | `d1` | `file:///x` |" in card
    assert "| out: corpus | `d1` |" in card
    assert "Made in 0." in card
    assert json.loads((tmp_path / "out" / "metrics").read_text()) == {"passages": 7}


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        pytest.param(UserError("bad", remedy="mend"), 2, id="user"),
        pytest.param(StorageError("down"), 75, id="boundary"),
    ],
)
def test_a_failure_is_recorded_and_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, exit_code: int
) -> None:
    monkeypatch.setenv(ERROR_FILE_VARIABLE, str(tmp_path / "error.json"))
    with pytest.raises(SystemExit) as raised:
        Step("count", CountConfig, fail_with(error)).execute(settings(), {}, files(tmp_path))
    assert raised.value.code == exit_code
    record = json.loads((tmp_path / "error.json").read_text())
    assert record == {
        "step": "count",
        "type": type(error).__name__,
        "message": str(error),
        "exit_code": exit_code,
        "traceback": "",
    }
    assert not (tmp_path / "out").exists()


def test_a_defect_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ERROR_FILE_VARIABLE, str(tmp_path / "error.json"))
    with pytest.raises(ZeroDivisionError):
        Step("count", CountConfig, fail_with(ZeroDivisionError("x"))).execute(settings(), {}, {})
    record = json.loads((tmp_path / "error.json").read_text())
    assert record["exit_code"] == 1
    assert "ZeroDivisionError" in record["traceback"]


@pytest.mark.parametrize(
    ("rank", "kept"),
    [
        pytest.param("1", "SearchError", id="of several ranks the first failure is the cause"),
        pytest.param("", "UserError", id="alone, what lies there is of another time"),
    ],
)
def test_the_error_file_holds_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str, kept: str) -> None:
    (tmp_path / "error.json").write_text(json.dumps({"type": "SearchError"}))
    monkeypatch.setenv(ERROR_FILE_VARIABLE, str(tmp_path / "error.json"))
    monkeypatch.delenv("RANK", raising=False)
    if rank:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit):
        Step("count", CountConfig, fail_with(UserError("bad"))).execute(settings(), {}, {})
    assert json.loads((tmp_path / "error.json").read_text())["type"] == kept


def test_command_line_runs_the_step(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    INPUT.write(tmp_path / "corpus.json")
    step = Step("count", CountConfig, count)
    step.main(["--set", "limit=5", "--input", f"corpus={tmp_path / 'corpus.json'}", "--output", str(tmp_path / "out")])
    assert Manifest.from_json(capsys.readouterr().out).inputs == {"corpus": "d1"}
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == {"passages": 5}


def test_command_line_takes_the_settings_of_a_pipeline(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    INPUT.write(tmp_path / "corpus.json")
    (tmp_path / "settings.json").write_text(settings(limit=8))
    arguments = ["--settings", str(tmp_path / "settings.json"), "--input", f"corpus={tmp_path / 'corpus.json'}"]
    Step("count", CountConfig, count).main([*arguments, "--output", str(tmp_path / "out")])
    made = Manifest.from_json(capsys.readouterr().out).produced_by
    assert (made.version, made.config_sha256) == ("c" * 16, CountConfig(limit=8).sha256())
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == {"passages": 8}


def test_of_several_ranks_the_first_one_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    INPUT.write(tmp_path / "corpus.json")
    monkeypatch.setenv("RANK", "1")
    step = Step("count", CountConfig, count)
    step.main(["--input", f"corpus={tmp_path / 'corpus.json'}", "--output", str(tmp_path / "out")])
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "limit"),
    [pytest.param("", 4, id="file"), pytest.param("limit=9", 9, id="an override beats the file")],
)
def test_command_line_prints_the_resolved_config(
    tmp_path: Path, capsys: pytest.CaptureFixture, overrides: str, limit: int
) -> None:
    (tmp_path / "count.toml").write_text("limit = 4")
    arguments = ["--config", str(tmp_path / "count.toml"), "--set", overrides, "--print-config"]
    Step("count", CountConfig, count).main(arguments)
    assert json.loads(capsys.readouterr().out) == {"limit": limit}


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--set", "limit=0"], id="out of bounds"),
        pytest.param(["--input", "corpus"], id="input without a path"),
        pytest.param(["--config", "absent.toml"], id="no such file"),
    ],
)
def test_command_line_refuses_with_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as raised:
        Step("count", CountConfig, count).main(arguments)
    assert raised.value.code == 2
    assert "Error" in capsys.readouterr().err


def test_work_key_follows_config_code_and_inputs() -> None:
    context = StepContext("count", "file:///data/", "code", "config")
    key = context.work_key({"corpus": INPUT})
    assert context.work_uri({"corpus": INPUT}) == f"file:///data/work/count/{key}"
    others = [
        StepContext("count", "s3://elsewhere", "code", "config").work_key({"corpus": INPUT}),
        StepContext("count", "file:///data", "other", "config").work_key({"corpus": INPUT}),
        StepContext("count", "file:///data", "code", "other").work_key({"corpus": INPUT}),
        context.work_key({"corpus": INPUT.model_copy(update={"digest": "d2"})}),
    ]
    assert [other == key for other in others] == [True, False, False, False]


class Log:
    """A failure log in memory."""

    def __init__(self, earlier: dict | None = None) -> None:
        self.earlier, self.begun, self.kept, self.num_forgotten = earlier or {}, [], [], 0

    def begin(self, step: str) -> None:
        self.begun.append(step)

    def keep(self, record: dict) -> None:
        self.kept.append(record)

    def to_repeat(self) -> dict:
        return self.earlier

    def forget(self) -> None:
        self.num_forgotten += 1


def speak(config: CountConfig, context: StepContext) -> StepResult:
    print("\n".join(f"line {number}" for number in range(99)))
    print("working " + "x" * 9999, end="\r")
    print("to the end", file=sys.stderr)
    raise UserError("bad")


def test_the_log_gets_the_error_with_the_last_lines(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = Log()
    with pytest.raises(SystemExit):
        Step("count", CountConfig, speak).execute(settings(), {}, {}, log)
    (record,) = log.kept
    assert (record["type"], record["exit_code"]) == ("UserError", 2)
    assert record["last_lines"][0] == "line 71"
    assert record["last_lines"][-1] == "to the end"
    assert max(map(len, record["last_lines"])) <= 500
    shown = capsys.readouterr()
    assert "line 0\n" in shown.out
    assert "to the end" in shown.err


def test_the_log_gets_a_defect_too() -> None:
    log = Log()
    with pytest.raises(ZeroDivisionError):
        Step("count", CountConfig, fail_with(ZeroDivisionError("x"))).execute(settings(), {}, {}, log)
    assert [(record["type"], record["exit_code"]) for record in log.kept] == [("ZeroDivisionError", 1)]
    assert log.num_forgotten == 0


def test_a_retry_does_not_meet_the_same_user_error_at_full_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv(ERROR_FILE_VARIABLE, str(tmp_path / "error.json"))
    log = Log({"type": "CorpusError", "message": "line 3", "exit_code": 2})
    with pytest.raises(SystemExit) as raised:
        Step("count", CountConfig, fail_with(AssertionError("ran"))).execute(settings(), {}, {}, log)
    assert raised.value.code == 2
    assert "count: CorpusError: line 3" in capsys.readouterr().err
    assert json.loads((tmp_path / "error.json").read_text()) == log.earlier
    assert (log.begun, log.kept) == ([], [])


def test_a_success_forgets_the_failure_of_an_earlier_attempt(tmp_path: Path) -> None:
    INPUT.write(tmp_path / "corpus.json")
    log = Log()
    Step("count", CountConfig, count).execute(settings(), {"corpus": str(tmp_path / "corpus.json")}, {}, log)
    assert (log.begun, log.kept, log.num_forgotten) == (["count"], [], 1)


def test_a_task_opens_the_log_of_its_storage_root() -> None:
    opened = []
    step = Step("count", CountConfig, fail_with(UserError("bad")), lambda *given: opened.append(given) or Log())
    with pytest.raises(SystemExit):
        step.execute_task(settings(), {}, {})
    assert opened == [("file:///data", "count")]


def test_a_task_labels_its_artifacts(tmp_path: Path) -> None:
    INPUT.write(tmp_path / "corpus.json")
    outputs = {name: SimpleNamespace(path=path, metadata={}) for name, path in files(tmp_path).items()}
    corpus = SimpleNamespace(path=str(tmp_path / "corpus.json"), metadata={})
    Step("count", CountConfig, count).execute_task(settings(limit=7), {"corpus": corpus}, outputs)
    labels = {name: artifact.metadata for name, artifact in outputs.items()}
    assert labels["manifest"] == {"digest": "d1", "uri": "file:///x"}
    assert labels["metrics"] == {"passages": 7}
    assert (labels["card"], labels["html"], corpus.metadata) == ({}, {}, {})


def test_what_a_card_says_already_is_not_said_twice(tmp_path: Path) -> None:
    """Ranks that a step starts write the card; the step hands it on."""

    def hand_on(config: CountConfig, context: StepContext) -> StepResult:
        return StepResult(INPUT, card=first)

    first = (
        Step("count", CountConfig, lambda config, context: StepResult(INPUT, card="# x"))
        .execute(settings(), {}, {})
        .card
    )
    assert Step("count", CountConfig, hand_on).execute(settings(), {}, {}).card == first


def test_more_headline_numbers_than_a_person_compares_are_a_defect() -> None:
    def boast(config: CountConfig, context: StepContext) -> StepResult:
        return StepResult(INPUT, metrics={str(number): 1.0 for number in range(11)})

    with pytest.raises(AssertionError):
        Step("count", CountConfig, boast).execute(settings(), {}, {})
