"""The step's promises: zero-copy, one version per checkpoint, a gate, and safe repetition."""

import json
from pathlib import Path

import pytest
import yaml

from components.contracts.errors import ManifestError, MissingError, TrackingError, UserError
from components.contracts.manifest import Manifest
from components.register.answers import read_answers
from components.register.config import RegisterConfig
from components.register.gate import Candidate
from components.register.main import _gate, promote, rollback
from components.register.model_files import has_model_files, loop_of, write_model_files
from components.register.registry import CHAMPION, CHECKPOINT_TAG, DECISION_TAG, PREVIOUS, Registry
from components.storage import fetch, open_storage
from components.tracking.registered import corpus_versions

GATE_TAGS = (DECISION_TAG, "gate.reasons", "gate.champion_version")
GOOD, BETTER, BAD = [1, 1, 0, 0] * 10, [1, 1, 1, 1] * 10, [0] * 40


def test_the_first_model_above_the_floor_becomes_champion(shelf) -> None:
    checkpoint = shelf.checkpoint("weights")
    evaluation = shelf.evaluation(checkpoint, {"nq": GOOD, "popqa": BETTER})
    result = shelf.register(checkpoint, evaluation, min_mean_em=0.7)
    assert result.manifest.metadata == {
        "name": shelf.name,
        "version": "1",
        "alias": "champion",
        "decision": "promoted",
        "reasons": ["first model: mean EM 0.750, floor 0.700 (register.min_mean_em)"],
        "champion_version": "1",
        "mlflow_url": shelf.registry.url("1"),
    }
    assert result.manifest.inputs == {
        "checkpoint": checkpoint.digest,
        "evaluation": evaluation.digest,
        "index": shelf.index.digest,
    }
    assert result.metrics == {"em_avg": 0.75, "version": 1.0, "promoted": 1.0}
    assert json.loads((fetch(result.manifest) / "registration.json").read_text()) == result.manifest.metadata
    assert "| nq | 0.500 | 0.100 to 0.900 | 0.500 | 1.00 | 40 |" in result.card


def test_a_first_model_below_the_floor_is_a_challenger(shelf) -> None:
    registration = shelf.registered("weights", {"nq": GOOD}, min_mean_em=0.6)
    assert (registration["decision"], registration["alias"]) == ("rejected", "challenger")
    assert registration["champion_version"] == ""
    assert "below the floor: mean EM 0.500, floor 0.600" in registration["reasons"][0]


def test_registering_copies_no_weights_and_keeps_the_digest(shelf) -> None:
    checkpoint = shelf.checkpoint("w" * 1_000_000)
    before = {info.key: info for info in open_storage(checkpoint.uri).list()}
    shelf.register(checkpoint, shelf.evaluation(checkpoint, {"nq": GOOD}))
    added = [info for info in open_storage(checkpoint.uri).list() if before.get(info.key) != info]
    assert {info.key for info in added} == {
        "MLmodel",
        "searchr1.json",
        "components/tokenizer/config.json",
        "components/tokenizer/tokenizer.json",
    }
    assert sum(info.size for info in added) < 10_000
    fetch(checkpoint)
    version = shelf.client.get_model_version(shelf.name, "1")
    assert (version.source, version.status) == (checkpoint.uri, "READY")


def test_the_version_carries_its_origin(shelf) -> None:
    checkpoint = shelf.checkpoint("weights")
    evaluation = shelf.evaluation(checkpoint, {"nq": GOOD})
    shelf.register(checkpoint, evaluation)
    version = shelf.client.get_model_version(shelf.name, "1")
    expected = {
        CHECKPOINT_TAG: checkpoint.digest,
        "evaluation.uri": evaluation.uri,
        "index.digest": shelf.index.digest,
        "index.kind": "bm25",
        "questions.digest": shelf.questions.digest,
        "git.commit": "c0ffee",
        "config.sha256": "ab",
        "run.id": "run-1",
        "algorithm": "ppo",
        "em.avg": "0.5000",
        DECISION_TAG: "promoted",
    }
    assert expected.items() <= version.tags.items()
    assert "| nq | 0.500" in version.description


def test_mlmodel_declares_both_flavors_and_trusts_no_remote_code(shelf) -> None:
    checkpoint = shelf.checkpoint("weights")
    shelf.register(checkpoint, shelf.evaluation(checkpoint, {"nq": GOOD}))
    flavors = yaml.safe_load(open_storage(checkpoint.uri).get_bytes("MLmodel"))["flavors"]
    assert flavors["python_function"]["loader_module"] == "components.register.pyfunc_model"
    assert flavors["transformers"]["pipeline_model_type"] == "AutoModelForCausalLM"


def test_the_same_checkpoint_makes_no_second_version(shelf) -> None:
    checkpoint = shelf.checkpoint("weights")
    evaluation = shelf.evaluation(checkpoint, {"nq": GOOD})
    shelf.register(checkpoint, evaluation)
    again = shelf.register(checkpoint, evaluation).manifest.metadata
    assert (again["version"], again["alias"], again["decision"]) == ("1", "champion", "unchanged")
    assert len(shelf.versions()) == 1


def test_a_better_challenger_replaces_the_champion(shelf) -> None:
    shelf.registered("one", {"nq": GOOD})
    registration = shelf.registered("two", {"nq": BETTER})
    assert (registration["version"], registration["alias"], registration["decision"]) == ("2", "champion", "promoted")
    assert shelf.registry.aliases() == {CHAMPION: "2", PREVIOUS: "1"}
    assert "20 questions won, 0 lost" in registration["reasons"][0]
    assert shelf.client.get_model_version(shelf.name, "2").tags["gate.champion_version"] == "1"


def test_answers_are_paired_by_question_whatever_the_order_of_the_sets(shelf) -> None:
    shelf.registered("one", {"nq": GOOD, "popqa": BAD})
    registration = shelf.registered("two", {"popqa": BAD, "nq": BETTER})
    assert registration["decision"] == "promoted"
    assert "20 questions won, 0 lost" in registration["reasons"][0]


@pytest.mark.parametrize(
    ("scores", "config", "says"),
    [
        pytest.param({"nq": GOOD, "popqa": GOOD}, {}, "not surely better", id="equal"),
        pytest.param({"nq": [1, 1, 1, 0] * 10, "popqa": GOOD}, {"min_gain": 0.1}, "more than 0.100", id="margin"),
        pytest.param(
            {"nq": BETTER, "popqa": [1, 0, 0, 0] * 10}, {"min_gain": 0.0}, "popqa falls from 0.500 to 0.250", id="fall"
        ),
    ],
)
def test_a_challenger_that_does_not_pass(shelf, scores: dict, config: dict, says: str) -> None:
    shelf.registered("one", {"nq": GOOD, "popqa": GOOD})
    registration = shelf.registered("two", scores, **config)
    assert (registration["decision"], registration["alias"]) == ("rejected", "challenger")
    assert registration["champion_version"] == "1"
    assert says in " ".join(registration["reasons"])


def test_a_champion_evaluated_on_something_else_is_not_compared(shelf) -> None:
    shelf.registered("one", {"nq": BAD + GOOD}, min_mean_em=0.0)
    registration = shelf.registered("two", {"nq": GOOD})
    assert (registration["decision"], registration["alias"]) == ("not_comparable", "challenger")
    assert "40 only the champion answered (nq:40, nq:41, nq:42, ...)" in registration["reasons"][0]


def test_a_champion_whose_evaluation_is_gone_is_not_compared(shelf) -> None:
    first = shelf.checkpoint("one")
    evaluation = shelf.evaluation(first, {"nq": GOOD})
    shelf.register(first, evaluation)
    open_storage(evaluation.uri).delete("manifest.json")
    registration = shelf.registered("two", {"nq": BETTER})
    assert registration["decision"] == "not_comparable"
    assert "no longer stored" in registration["reasons"][0]


def test_a_champion_registered_by_other_means_is_not_compared(shelf) -> None:
    shelf.client.create_registered_model(shelf.name)
    shelf.client.create_model_version(shelf.name, "s3://elsewhere/model")
    shelf.client.set_registered_model_alias(shelf.name, CHAMPION, "1")
    registration = shelf.registered("two", {"nq": BETTER})
    assert registration["decision"] == "not_comparable"
    assert "version 1 has no tag evaluation.uri" in registration["reasons"][0]


@pytest.mark.parametrize(
    ("loop", "decision", "says"),
    [
        pytest.param('{"max_searches": 3}', "promoted", "20 questions won", id="older than a setting"),
        pytest.param('{"max_searches": 5}', "not_comparable", "max_searches = 3 against 5", id="other value"),
        pytest.param('{"gone": 5}', "not_comparable", "Unknown key 'loop.config.gone'", id="setting that is gone"),
    ],
)
def test_the_champions_loop_is_read_with_todays_defaults(shelf, loop: str, decision: str, says: str) -> None:
    shelf.registered("one", {"nq": GOOD})
    shelf.client.set_model_version_tag(shelf.name, "1", "loop.config", loop)
    registration = shelf.registered("two", {"nq": BETTER})
    assert registration["decision"] == decision
    assert says in registration["reasons"][0]


@pytest.mark.parametrize(
    ("aliases", "decision"),
    [
        pytest.param({}, "promoted", id="killed before the alias moved"),
        pytest.param({CHAMPION: "1"}, "promoted", id="killed before the decision was noted"),
    ],
)
def test_a_killed_registration_is_finished_not_repeated(shelf, aliases: dict, decision: str) -> None:
    checkpoint = shelf.checkpoint("weights")
    evaluation = shelf.evaluation(checkpoint, {"nq": GOOD})
    shelf.register(checkpoint, evaluation)
    shelf.client.delete_model_version_tag(shelf.name, "1", DECISION_TAG)
    if not aliases:
        shelf.client.delete_registered_model_alias(shelf.name, CHAMPION)
    registration = shelf.register(checkpoint, evaluation).manifest.metadata
    assert (registration["version"], registration["alias"]) == ("1", "champion")
    assert registration["decision"] == decision
    assert len(shelf.versions()) == 1


def test_a_registered_checkpoint_made_anew_gets_its_files_back(shelf) -> None:
    checkpoint = shelf.checkpoint("weights")
    evaluation = shelf.evaluation(checkpoint, {"nq": GOOD})
    shelf.register(checkpoint, evaluation)
    open_storage(checkpoint.uri).delete("MLmodel")
    assert shelf.register(checkpoint, evaluation).manifest.metadata["decision"] == "unchanged"
    assert open_storage(checkpoint.uri).exists("MLmodel")


def test_rollback_restores_the_previous_champion_and_can_be_undone(shelf) -> None:
    shelf.registered("one", {"nq": GOOD})
    second = shelf.checkpoint("two")
    evaluation = shelf.evaluation(second, {"nq": BETTER})
    shelf.register(second, evaluation)
    assert rollback(shelf.name) == "1"
    assert shelf.registry.aliases() == {CHAMPION: "1", PREVIOUS: "2"}
    unchanged = shelf.register(second, evaluation).manifest.metadata
    assert (unchanged["decision"], unchanged["champion_version"]) == ("unchanged", "1")
    assert rollback(shelf.name) == "2"


def test_promotion_by_hand(shelf) -> None:
    shelf.registered("one", {"nq": BETTER})
    shelf.registered("two", {"nq": GOOD})
    assert promote(shelf.name, "2") == "1"
    assert shelf.registry.aliases() == {CHAMPION: "2", PREVIOUS: "1"}
    assert shelf.client.get_model_version(shelf.name, "2").tags["gate.by_hand"] == "replaced version 1"
    # Asked for once more, it does not take its own place as the one to roll back to.
    assert promote(shelf.name, "2") == "2"
    assert shelf.registry.aliases() == {CHAMPION: "2", PREVIOUS: "1"}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        pytest.param(rollback, "no version with the alias 'previous'", id="nothing to roll back to"),
        pytest.param(lambda name: promote(name, "7"), "no version '7'", id="no such version"),
    ],
)
def test_what_a_person_cannot_do(shelf, call, says: str) -> None:
    with pytest.raises(MissingError, match=says):
        call(shelf.name)
    shelf.registered("one", {"nq": GOOD})
    with pytest.raises(MissingError, match=says):
        call(shelf.name)


def test_the_crown_does_not_move_when_the_champion_changed(shelf) -> None:
    for weights, scores in (("one", GOOD), ("two", BETTER)):
        shelf.registered(weights, {"nq": scores})
    assert not shelf.registry.crown("1", expected_champion="1")
    assert shelf.registry.aliases()[CHAMPION] == "2"


def unjudged(shelf, weights: str, scores: dict) -> Candidate:
    """A registered version as a step that was killed before it judged leaves it."""
    checkpoint, before = shelf.checkpoint(weights), shelf.registry.aliases()
    evaluation = shelf.evaluation(checkpoint, scores)
    version = shelf.register(checkpoint, evaluation).manifest.metadata["version"]
    for tag in GATE_TAGS:
        shelf.client.delete_model_version_tag(shelf.name, version, tag)
    for alias in shelf.registry.aliases():
        shelf.client.delete_registered_model_alias(shelf.name, alias)
    for alias, owner in before.items():
        shelf.client.set_registered_model_alias(shelf.name, alias, owner)
    loop = loop_of(checkpoint).model_dump(mode="json")
    return Candidate(version, read_answers(evaluation), shelf.index.digest, loop)


class Overtaken(Registry):
    """A registry in which a person promotes version 2 while the gate reads the champion."""

    def version(self, version: str):
        found = super().version(version)
        if self.aliases()[CHAMPION] == "1":
            promote(self.name, "2")
        return found


def test_the_gate_judges_again_when_the_champion_changes_under_its_hands(shelf) -> None:
    shelf.registered("one", {"nq": BAD}, min_mean_em=0.0)
    shelf.registered("two", {"nq": GOOD}, min_gain=0.9)
    challenger = unjudged(shelf, "three", {"nq": BETTER})
    registry = Overtaken(shelf.client, shelf.client.tracking_uri, shelf.name)
    verdict = _gate(registry, challenger, RegisterConfig(model_name=shelf.name))
    assert "mean EM 1.000 against 0.500 of version 2" in verdict.reasons[0]
    assert shelf.registry.aliases() == {CHAMPION: "3", PREVIOUS: "2"}
    assert shelf.registry.version("3").tags["gate.champion_version"] == "2"


class Dying:
    """A client that ends with the tag after `num_tags` others."""

    def __init__(self, client, num_tags: int) -> None:
        self._client, self._num_tags = client, num_tags

    def set_model_version_tag(self, *given) -> None:
        if not self._num_tags:
            raise ConnectionError("the server is gone")
        self._num_tags -= 1
        self._client.set_model_version_tag(*given)

    def __getattr__(self, name: str):
        return getattr(self._client, name)


@pytest.mark.parametrize("num_tags", [0, 1, 2])
def test_a_decision_never_stands_without_its_reasons(shelf, num_tags: int) -> None:
    shelf.registered("one", {"nq": GOOD})
    challenger = unjudged(shelf, "two", {"nq": BETTER})
    registry = Registry(Dying(shelf.client, num_tags), shelf.client.tracking_uri, shelf.name)
    with pytest.raises(TrackingError, match="the server is gone"):
        _gate(registry, challenger, RegisterConfig(model_name=shelf.name))
    assert DECISION_TAG not in shelf.registry.version("2").tags
    _gate(shelf.registry, challenger, RegisterConfig(model_name=shelf.name))
    assert set(GATE_TAGS) <= shelf.registry.version("2").tags.keys()


def spoil_weights(shelf, checkpoint: Manifest, evaluation: Manifest):
    open_storage(checkpoint.uri).delete("model/model.safetensors")
    return checkpoint, evaluation


def other_checkpoint(shelf, checkpoint: Manifest, evaluation: Manifest):
    return shelf.checkpoint("other"), evaluation


def without_loop(shelf, checkpoint: Manifest, evaluation: Manifest):
    return checkpoint.model_copy(update={"metadata": {}}), evaluation


def without_answers(shelf, checkpoint: Manifest, evaluation: Manifest):
    return checkpoint, shelf.evaluation(checkpoint, {"nq": GOOD}, method="base")


def without_model(shelf, checkpoint: Manifest, evaluation: Manifest):
    weights_alone = {"model/model.safetensors": "weights"}
    bare = shelf.publish("checkpoint", weights_alone, metadata=checkpoint.metadata, inputs={"index": shelf.index})
    return bare, shelf.evaluation(bare, {"nq": GOOD})


def other_index(shelf, checkpoint: Manifest, evaluation: Manifest):
    shelf.index = shelf.publish("index", {"lucene/segments": "other"})
    return checkpoint, evaluation


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        pytest.param(spoil_weights, r"model/model\.safetensors is missing", id="weights gone"),
        pytest.param(other_checkpoint, "was not made with the checkpoint", id="evaluation of another checkpoint"),
        pytest.param(other_index, "was not made with the index", id="evaluation on another index"),
        pytest.param(without_model, r"has no model/config\.json", id="weights without a model"),
        pytest.param(without_loop, "does not say how it searches", id="no loop"),
        pytest.param(without_answers, "has no answers of search_r1", id="method not evaluated"),
    ],
)
def test_inputs_that_do_not_fit_make_no_version(shelf, spoil, says: str) -> None:
    checkpoint = shelf.checkpoint("weights")
    given = spoil(shelf, checkpoint, shelf.evaluation(checkpoint, {"nq": GOOD}))
    with pytest.raises(ManifestError, match=says):
        shelf.register(*given)
    assert shelf.versions() == []


def test_a_checkpoint_has_its_files_only_when_all_are_there(shelf) -> None:
    checkpoint = shelf.checkpoint("weights")
    open_storage(checkpoint.uri).delete("model/tokenizer.json")
    with pytest.raises(ManifestError, match="is damaged"):
        write_model_files(checkpoint, shelf.index, "")
    assert not has_model_files(checkpoint)


def test_without_a_registry_the_message_says_what_to_do(shelf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI is not set") as raised:
        shelf.registered("weights", {"nq": GOOD})
    assert "searchr1 run" in str(raised.value)


def test_a_version_knows_its_corpus_and_the_newest_of_equal_ones(shelf) -> None:
    checkpoint = shelf.checkpoint("weights")
    evaluation = shelf.evaluation(checkpoint, {"nq": GOOD})
    for version in ("ab", "cd"):
        shelf.register(checkpoint, evaluation, corpus_version=version)
        assert corpus_versions(shelf.name) == {"champion": ("1", version)}
    shelf.register(checkpoint, evaluation)
    assert corpus_versions(shelf.name) == {"champion": ("1", "cd")}
