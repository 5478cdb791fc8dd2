"""A written world: layout, splits, and every answer found again in the corpus by a reader of its own."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest

from components.contracts.errors import ConfigError
from components.contracts.question import SEVEN_SETS
from components.fictional_world.names import is_test_name
from components.fictional_world.relations import HELD_OUT_PAIRS, INFERENCES, RELATIONS
from components.fictional_world.writer import SIZES, world_size, write_world


def digest(folder) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_same_bytes_other_seed_other_world(tmp_path):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        write_world(tmp_path / name, size="mini", seed=seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a").keys() == digest(tmp_path / "c").keys()
    assert not set(digest(tmp_path / "a").values()) & set(digest(tmp_path / "c").values())


def test_another_process_writes_the_same_bytes(tmp_path):
    """Nothing follows from the order of a set of texts, which every process has for itself."""
    code = "import sys; from pathlib import Path; from components.fictional_world.writer import write_world; "
    code += "write_world(Path(sys.argv[1]), size='mini', seed=7)"
    for number in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": number}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / number)], env=environment, check=True)
    assert digest(tmp_path / "1") == digest(tmp_path / "2")


def test_two_sizes_of_a_seed_are_unrelated(tmp_path, small):
    write_world(tmp_path, size="mini", seed=7)
    assert not set(digest(tmp_path).values()) & set(digest(small.folder).values())


@pytest.mark.parametrize("given", ["smal", "Small", "", "../small"])
def test_unknown_size_is_an_error_that_names_the_sizes(given, tmp_path):
    with pytest.raises(ConfigError, match="mini, small, medium") as raised:
        write_world(tmp_path / "world", size=given, seed=0)
    assert ("did you mean 'small'" in str(raised.value)) == (given in ("smal", "Small", "../small"))
    assert not (tmp_path / "world").exists()


def test_layout_of_the_files(small):
    names = {str(path.relative_to(small.folder)) for path in small.folder.rglob("*.jsonl")}
    trained = {f"questions/{name}/{split}.jsonl" for name in ("nq", "hotpotqa") for split in ("train", "dev")}
    assert names == {"corpus.jsonl", *trained} | {f"questions/{name}/test.jsonl" for name in SEVEN_SETS}


def test_corpus_has_the_layout_of_wiki_18(small):
    rows = [json.loads(line) for line in (small.folder / "corpus.jsonl").open()]
    assert [row["id"] for row in rows] == [str(i) for i in range(len(rows))]
    assert all(row.keys() == {"id", "contents"} for row in rows)
    assert all(re.fullmatch(r'"\w+ \w+"\n.+', row["contents"]) for row in rows)
    assert len(small.documents) == len(rows)


def test_questions_have_the_layout_of_flashrag(small):
    for name in SEVEN_SETS:
        rows = small.rows(name)
        assert [row["id"] for row in rows] == [f"test_{i}" for i in range(len(rows))]
        assert all(row.keys() == {"id", "question", "golden_answers", "metadata"} for row in rows)
        assert all(len(row["golden_answers"]) == 1 and row["golden_answers"][0] for row in rows)
        assert len({row["question"] for row in rows}) == len(rows)


@pytest.mark.parametrize("name", SEVEN_SETS)
def test_several_hundred_questions_in_the_right_kinds(name, small):
    kinds = Counter(row["metadata"]["kind"] for row in small.rows(name))
    assert (
        kinds
        == {
            "nq": {"single": 300},
            "triviaqa": {"single": 300},
            "popqa": {"single": 300},
            "hotpotqa": {"bridge": 200, "comparison": 100},
            "2wikimultihopqa": {"compositional": 100, "comparison": 100, "inference": 100},
            "musique": {"2hop": 150, "3hop": 75, "4hop": 75},
            "bamboogle": {"held_out_pair": 300},
        }[name]
    )


@pytest.mark.parametrize("seed", range(4))
def test_every_seed_fills_every_set(seed, tmp_path):
    write_world(tmp_path, size="mini", seed=seed)
    for name in SEVEN_SETS:
        rows = (tmp_path / "questions" / name / "test.jsonl").read_text().splitlines()
        assert len(rows) == SIZES["mini"].questions_per_set
    for split, count in (("train", 400), ("dev", 60)):
        lines = [(tmp_path / "questions" / n / f"{split}.jsonl").read_text().splitlines() for n in ("nq", "hotpotqa")]
        assert [len(each) for each in lines] == [count // 2, count // 2]


def test_training_asks_single_hops_and_bridges_only(small):
    for split in ("train", "dev"):
        kinds = {name: {row["metadata"]["kind"] for row in small.rows(name, split)} for name in ("nq", "hotpotqa")}
        assert kinds == {"nq": {"single"}, "hotpotqa": {"bridge"}}


def written_names(rows, find_names) -> set[str]:
    return {name for row in rows for name in find_names(json.dumps(row))}


def test_test_entities_occur_nowhere_in_training(small, find_names):
    trained = [row for split in ("train", "dev") for name in ("nq", "hotpotqa") for row in small.rows(name, split)]
    asked = [row for name in SEVEN_SETS for row in small.rows(name)]
    training_names, test_names = written_names(trained, find_names), written_names(asked, find_names)
    assert len(training_names) > 500
    assert len(test_names) > 300
    assert not training_names & test_names
    assert not any(map(is_test_name, training_names))
    assert all(map(is_test_name, test_names))


def test_documents_name_entities_of_one_split_only(small, find_names):
    for title, text in small.documents.items():
        assert {is_test_name(name) for name in find_names(f"{title}. {text}")} == {is_test_name(title)}


def test_dev_and_training_entities_are_disjoint(small, find_names):
    by_split = {
        split: written_names([row for name in ("nq", "hotpotqa") for row in small.rows(name, split)], find_names)
        for split in ("train", "dev")
    }
    assert not by_split["train"] & by_split["dev"]


NAME = r"(?:the (?:film|book|company|town|river|country) )?(\w+ \w+)"
OPEN = r"(?:who|which town|which company|which country)"


def followed(phrase: str) -> list[tuple[str, tuple[str, ...]]]:
    """Every way to read a description: (subject, relation names from the inside out)."""
    readings = [(match.group(1), ()) for match in [re.fullmatch(NAME, phrase)] if match]
    for relation in RELATIONS:
        for wording in (f"the {relation.name} of {{s}}", relation.clause):
            if match := re.fullmatch(re.escape(wording).replace(r"\{s\}", "(.+)"), phrase):
                readings += [(name, (*path, relation.name)) for name, path in followed(match.group(1))]
    return readings


def path_of(row: dict, set_name: str) -> tuple[str, tuple[str, ...]]:
    """(subject, relation names from the inside out), read from the wording of an open question."""
    question, readings = row["question"], []
    if row["metadata"]["kind"] == "inference":
        wordings = {pair: re.escape(text).replace(r"\{s\}", NAME) for pair, text in INFERENCES.items()}
        found = [(pair, re.fullmatch(wording, question)) for pair, wording in wordings.items()]
        readings = [(match.group(1), pair) for pair, match in found if match]
    elif set_name in ("triviaqa", "2wikimultihopqa"):
        for relation in RELATIONS:
            if match := re.fullmatch(re.escape(relation.trivia).replace(r"\{s\}", "(.+)"), question):
                readings += [(name, (*path, relation.name)) for name, path in followed(match.group(1))]
    elif set_name == "popqa":
        readings = [re.fullmatch(rf"{NAME}, its (\w+)\?", question).groups()]
        readings = [(subject, (name,)) for subject, name in readings]
    elif set_name == "musique":
        start, last = re.fullmatch(r"(.+) has which (\w+)\?", question).groups()
        readings = [(name, (*path, last)) for name, path in followed(start)]
    else:
        readings = followed(re.fullmatch(rf"{OPEN} is (.+)\?", question).group(1))
    (reading,) = readings
    return reading


def open_questions(small):
    for name in SEVEN_SETS:
        splits = ("train", "dev", "test") if name in ("nq", "hotpotqa") else ("test",)
        for split in splits:
            yield from (
                (name, split, row) for row in small.rows(name, split) if row["metadata"]["kind"] != "comparison"
            )


def test_every_answer_follows_from_the_documents(small):
    count = 0
    for name, _, row in open_questions(small):
        subject, relations = path_of(row, name)
        path = [subject]
        for relation in relations:
            assert small.facts[path[-1]][relation] in small.documents[path[-1]]
            path.append(small.facts[path[-1]][relation])
        assert row["golden_answers"] == [path[-1]], row
        assert row["metadata"]["entities"] == path[:-1]
        assert path[-1] not in row["question"]
        assert len(set(path)) == len(path) or name not in ("musique",)
        count += 1
    assert count > 5_000


def test_comparison_has_one_right_choice(small):
    count = 0
    for name in ("hotpotqa", "2wikimultihopqa"):
        for row in small.rows(name):
            if row["metadata"]["kind"] != "comparison":
                continue
            words = r"which (\w+) has the (\w+) (\w+ \w+), (\w+ \w+) or (\w+ \w+)\?"
            kind, relation, target, *choices = re.fullmatch(words, row["question"]).groups()
            right = [name for name in choices if small.facts[name].get(relation) == target]
            assert row["golden_answers"] == right
            assert {small.types[name] for name in choices} == {kind}
            count += 1
    assert count == 200


def test_right_choice_of_a_comparison_stands_on_either_side(small):
    rows = [row for row in small.rows("hotpotqa") if row["metadata"]["kind"] == "comparison"]
    first = sum(row["question"].split(", ")[1].startswith(row["golden_answers"][0]) for row in rows)
    assert 30 < first < 70


def test_held_out_relation_pairs_occur_in_bamboogle_only(small):
    pairs: dict[str, set] = {}
    for name, split, row in open_questions(small):
        _, relations = path_of(row, name)
        pairs.setdefault(f"{name} {split}", set()).update(pairwise(relations))
    bamboogle = pairs.pop("bamboogle test")
    assert bamboogle == HELD_OUT_PAIRS
    assert sum(map(len, pairs.values())) > 50
    for name, found in pairs.items():
        assert not found & HELD_OUT_PAIRS, name


def test_popqa_asks_about_entities_that_few_documents_mention(small):
    mentions = Counter(target for facts in small.facts.values() for target in facts.values())
    mean = {
        name: sum(mentions[row["metadata"]["entities"][0]] for row in small.rows(name)) / 300
        for name in ("nq", "popqa")
    }
    assert mean["popqa"] < mean["nq"] / 2


def test_answers_are_not_few(small):
    """Always answering with the most frequent entity must not pay."""
    for name in SEVEN_SETS:
        answers = Counter(row["golden_answers"][0] for row in small.rows(name))
        assert answers.most_common(1)[0][1] < 0.06 * 300, name


@pytest.mark.parametrize("name", SIZES)
def test_sizes_fit_the_supply_of_names(name):
    shape = world_size(name)
    assert shape.train_entities + shape.dev_entities < 6_900
    assert shape.test_entities <= 2_900
