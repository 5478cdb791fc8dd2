"""Seven kinds of questions about a world, mirroring the seven evaluation sets of Search-R1.

| set | mirrors |
|---|---|
| nq | one hop, the relation as a noun or as a clause |
| triviaqa | one hop, the relation as a statement |
| popqa | one hop, terse, about entities that few documents mention |
| hotpotqa | bridge (two hops, each as a noun or as a clause) and comparison (which of two has a given fact) |
| 2wikimultihopqa | compositional (two hops, the outer one as a statement), comparison, inference (no relation named) |
| musique | two to four hops |
| bamboogle | two hops over relation pairs that no other set and no training text uses |
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from components.fictional_world.relations import (
    HELD_OUT_PAIRS,
    INFERENCES,
    QUESTION_WORD,
    RELATIONS,
    Relation,
)
from components.fictional_world.world import Entity, World


@dataclass(frozen=True, slots=True)
class WorldQuestion:
    """A question, its only answer, its kind within the set and the entities it starts from and passes through."""

    set_name: str
    kind: str
    question: str
    answer: str
    entities: tuple[str, ...]


_BY_NAME = {relation.name: relation for relation in RELATIONS}


def described(entity: Entity) -> str:
    """Return the name with its type, as questions use it: "the film kalo mira", a person's name alone."""
    return entity.name if entity.type == "person" else f"the {entity.type} {entity.name}"


def noun_question(relation: Relation, subject: str) -> str:
    """Return "who is the director of <subject>?"."""
    return f"{QUESTION_WORD[relation.object]} is the {relation.name} of {subject}?"


def clause_question(relation: Relation, subject: str) -> str:
    """Return "who is the person who directed <subject>?"."""
    return f"{QUESTION_WORD[relation.object]} is {relation.clause.format(s=subject)}?"


def trivia_question(relation: Relation, subject: str) -> str:
    """Return "<subject> was directed by which person?"."""
    return relation.trivia.format(s=subject)


def terse_question(relation: Relation, subject: str) -> str:
    """Return "<subject> , its director?"."""
    return f"{subject}, its {relation.name}?"


def bridge_questions(inner: Relation, outer: Relation, subject: str) -> tuple[str, ...]:
    """Return the four bridge wordings: "who is the spouse of the person who directed <subject>?" and so on.

    All four occur, so that no wording tells by itself whether a relation is the last one to follow.
    """
    described_middles = (inner.clause.format(s=subject), f"the {inner.name} of {subject}")
    return tuple(ask(outer, middle) for middle in described_middles for ask in (noun_question, clause_question))


def compositional_question(inner: Relation, outer: Relation, subject: str) -> str:
    """Return "the director of <subject> is married to which person?"."""
    return trivia_question(outer, f"the {inner.name} of {subject}")


def chain_question(chain: tuple[Relation, ...], subject: str) -> str:
    """Return the musique wording of two to four hops, inner relation first in `chain`."""
    for inner in chain[:-1]:
        subject = f"the {inner.name} of {subject}"
    return f"{subject} has which {chain[-1].name}?"


def hops(world: World, allowed: Callable[[str, str], bool]) -> Iterator[tuple[Entity, Relation, Entity, Relation, str]]:
    """Yield every two-hop path (subject, inner, middle, outer, answer) whose relation pair is `allowed`.

    Paths that come back to their subject are left out: their answer stands in the question.
    """
    for subject in world.entities.values():
        for inner, middle_name in subject.facts.items():
            middle = world.entities[middle_name]
            for outer, answer in middle.facts.items():
                if allowed(inner, outer) and answer != subject.name:
                    yield subject, _BY_NAME[inner], middle, _BY_NAME[outer], answer


def not_held_out(inner: str, outer: str) -> bool:
    """Return whether a relation pair may occur outside bamboogle."""
    return (inner, outer) not in HELD_OUT_PAIRS


def single_hop(world: World, set_name: str, rng: random.Random) -> list[WorldQuestion]:
    """Return every one-hop question of the nq, triviaqa or popqa family, shuffled (popqa: rare entities first)."""
    wordings = {
        "nq": (noun_question, clause_question),
        "triviaqa": (trivia_question,),
        "popqa": (terse_question,),
    }[set_name]
    found = [
        WorldQuestion(
            set_name, "single", rng.choice(wordings)(_BY_NAME[name], described(entity)), answer, (entity.name,)
        )
        for entity in world.entities.values()
        for name, answer in entity.facts.items()
    ]
    rng.shuffle(found)
    if set_name == "popqa":
        found.sort(key=lambda question: world.mentions[question.entities[0]])
    return found


def two_hop(world: World, set_name: str, rng: random.Random) -> list[WorldQuestion]:
    """Return every hotpotqa bridge, 2wikimultihopqa compositional or bamboogle question, shuffled."""
    kind = {"hotpotqa": "bridge", "2wikimultihopqa": "compositional", "bamboogle": "held_out_pair"}[set_name]
    held_out = set_name == "bamboogle"

    def worded(inner: Relation, outer: Relation, subject: Entity) -> str:
        if kind == "compositional":
            return compositional_question(inner, outer, described(subject))
        return rng.choice(bridge_questions(inner, outer, described(subject)))

    found = [
        WorldQuestion(set_name, kind, worded(inner, outer, subject), answer, (subject.name, middle.name))
        for subject, inner, middle, outer, answer in hops(world, lambda i, o: not_held_out(i, o) != held_out)
    ]
    rng.shuffle(found)
    return found


def inference(world: World, rng: random.Random) -> list[WorldQuestion]:
    """Return every 2wikimultihopqa inference question, shuffled."""
    found = [
        WorldQuestion(
            "2wikimultihopqa",
            "inference",
            INFERENCES[inner.name, outer.name].format(s=described(subject)),
            answer,
            (subject.name, middle.name),
        )
        for subject, inner, middle, outer, answer in hops(world, lambda i, o: (i, o) in INFERENCES)
    ]
    rng.shuffle(found)
    return found


def comparisons(world: World, set_name: str, count: int, rng: random.Random) -> list[WorldQuestion]:
    """Return `count` questions which of two entities of a type has a given fact; one of the two names is right."""
    by_type: dict[str, list[Entity]] = {}
    for entity in world.entities.values():
        by_type.setdefault(entity.type, []).append(entity)
    found: dict[str, WorldQuestion] = {}
    while len(found) < count:
        right, other = rng.sample(by_type[rng.choice(list(by_type))], 2)
        relation, target = rng.choice(list(right.facts.items()))
        if other.facts.get(relation) == target:
            continue
        first, second = rng.sample([right.name, other.name], 2)
        text = f"which {right.type} has the {relation} {target}, {first} or {second}?"
        found[text] = WorldQuestion(set_name, "comparison", text, right.name, (right.name, other.name))
    return list(found.values())


def chains(world: World, num_hops: int, rng: random.Random) -> list[WorldQuestion]:
    """Return one musique question of `num_hops` hops per entity that has such a chain, shuffled."""
    found = []
    for subject in world.entities.values():
        path, chain = [subject], []
        while len(chain) < num_hops:
            choices = [
                (name, target)
                for name, target in path[-1].facts.items()
                if (not chain or not_held_out(chain[-1].name, name)) and target not in {e.name for e in path}
            ]
            if not choices:
                break
            name, target = rng.choice(choices)
            chain.append(_BY_NAME[name])
            path.append(world.entities[target])
        if len(chain) == num_hops:
            text = chain_question(tuple(chain), described(subject))
            names = tuple(entity.name for entity in path[:-1])
            found.append(WorldQuestion("musique", f"{num_hops}hop", text, path[-1].name, names))
    rng.shuffle(found)
    return found


def test_questions(world: World, per_set: int, rng: random.Random) -> dict[str, list[WorldQuestion]]:
    """Return at most `per_set` questions for each of the seven sets, kinds in fixed shares."""
    third, half = per_set // 3, per_set // 2
    compared = {name: comparisons(world, name, third, rng) for name in ("hotpotqa", "2wikimultihopqa")}
    sets = {name: single_hop(world, name, rng)[:per_set] for name in ("nq", "triviaqa", "popqa")}
    sets["hotpotqa"] = two_hop(world, "hotpotqa", rng)[: per_set - third] + compared["hotpotqa"]
    sets["2wikimultihopqa"] = (
        two_hop(world, "2wikimultihopqa", rng)[: per_set - 2 * third]
        + compared["2wikimultihopqa"]
        + inference(world, rng)[:third]
    )
    quarter = half // 2
    sets["musique"] = [
        question
        for num_hops, count in ((2, half), (3, quarter), (4, per_set - half - quarter))
        for question in chains(world, num_hops, rng)[:count]
    ]
    sets["bamboogle"] = two_hop(world, "bamboogle", rng)[:per_set]
    return sets


def questions_in_every_wording(world: World, rng: random.Random) -> list[WorldQuestion]:
    """Return one-hop questions of all three families and open two-hop ones of both wordings, shuffled.

    Uninformed transcripts ask them; relation pairs held out for bamboogle are not among them.
    """
    found = [question for name in ("nq", "triviaqa", "popqa") for question in single_hop(world, name, rng)]
    for name in ("hotpotqa", "2wikimultihopqa"):
        found += two_hop(world, name, rng)
    found += chains(world, 2, rng)
    rng.shuffle(found)
    return found


def training_questions(world: World, rng: random.Random) -> list[WorldQuestion]:
    """Return every nq question and every open (bridge) hotpotqa question of a training world, shuffled.

    Comparisons are left out: guessing one of two names pays half the reward and unlearns searching.
    """
    found = single_hop(world, "nq", rng) + two_hop(world, "hotpotqa", rng)
    rng.shuffle(found)
    return found
