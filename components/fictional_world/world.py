"""A world: entities with names, facts between them, and one document per entity."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from components.fictional_world.relations import relations_of

TYPE_SHARES: dict[str, float] = {
    "person": 0.30,
    "film": 0.16,
    "book": 0.14,
    "company": 0.12,
    "town": 0.14,
    "river": 0.07,
    "country": 0.07,
}
FACT_KEPT = 0.9
"""Probability that an entity has a given relation of its type; every entity has at least one."""


@dataclass(slots=True)
class Entity:
    """`facts` maps relation names to names of entities."""

    name: str
    type: str
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class World:
    """Entities by name, in order of creation, and the document of each."""

    entities: dict[str, Entity]
    documents: dict[str, str]
    mentions: Counter[str]
    """How many other entities' documents name an entity: its popularity."""


def build_world(num_entities: int, names: Iterator[str], rng: random.Random) -> World:
    """Return a world of about `num_entities` entities that take the next `names`, closed under its facts.

    Objects are drawn with a heavy tail, so that a few entities are named often and many hardly ever.
    """
    counts = {kind: max(2, round(share * num_entities)) for kind, share in TYPE_SHARES.items()}
    by_type = {kind: [next(names) for _ in range(count)] for kind, count in counts.items()}
    entities = {name: Entity(name, kind) for kind, members in by_type.items() for name in members}
    for entity in entities.values():
        _give_facts(entity, by_type, rng)
    documents = {name: _document(entity, rng) for name, entity in entities.items()}
    mentions = Counter(target for entity in entities.values() for target in entity.facts.values())
    return World(entities, documents, mentions)


def _give_facts(entity: Entity, by_type: dict[str, list[str]], rng: random.Random) -> None:
    relations = relations_of(entity.type)
    kept = [relation for relation in relations if rng.random() < FACT_KEPT] or [rng.choice(relations)]
    for relation in kept:
        candidates = by_type[relation.object]
        target = entity.name
        while target == entity.name:
            target = candidates[int(len(candidates) * rng.random() ** 1.5)]
        entity.facts[relation.name] = target


def _document(entity: Entity, rng: random.Random) -> str:
    statements = [
        rng.choice(relation.statements).format(o=entity.facts[relation.name])
        for relation in relations_of(entity.type)
        if relation.name in entity.facts
    ]
    rng.shuffle(statements)
    sentences = [f"{entity.name} is a {entity.type}.", *(f"it {statement}." for statement in statements)]
    return " ".join(sentences)
