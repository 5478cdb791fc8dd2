"""The schema of the world: seven types of entities and the relations between them, with their wordings."""

from dataclasses import dataclass
from typing import Literal

EntityType = Literal["person", "film", "book", "company", "town", "river", "country"]

QUESTION_WORD: dict[str, str] = {
    "person": "who",
    "town": "which town",
    "company": "which company",
    "country": "which country",
}
"""How a question asks for an entity of a type."""


@dataclass(frozen=True, slots=True)
class Relation:
    """One relation; `{s}` stands for the subject and `{o}` for the object in its wordings."""

    name: str
    """The noun: "director" in "the director of ..."."""
    subject: EntityType
    object: EntityType
    statements: tuple[str, str]
    """Two wordings used in documents."""
    clause: str
    """The object as a description: "the person who directed {s}"."""
    trivia: str
    """Question of the triviaqa family: the statement with the object asked for."""


RELATIONS: tuple[Relation, ...] = (
    Relation("spouse", "person", "person", ("is married to {o}", "has the spouse {o}"),
             "the person married to {s}", "{s} is married to which person?"),
    Relation("birthplace", "person", "town", ("was born in {o}", "comes from {o}"),
             "the town where {s} was born", "{s} was born in which town?"),
    Relation("employer", "person", "company", ("works for {o}", "has the employer {o}"),
             "the company where {s} works", "{s} works for which company?"),
    Relation("director", "film", "person", ("was directed by {o}", "has the director {o}"),
             "the person who directed {s}", "{s} was directed by which person?"),
    Relation("star", "film", "person", ("features {o}", "has the star {o}"),
             "the person featured in {s}", "{s} features which person?"),
    Relation("author", "book", "person", ("was written by {o}", "has the author {o}"),
             "the person who wrote {s}", "{s} was written by which person?"),
    Relation("publisher", "book", "company", ("was published by {o}", "has the publisher {o}"),
             "the company that published {s}", "{s} was published by which company?"),
    Relation("founder", "company", "person", ("was founded by {o}", "has the founder {o}"),
             "the person who founded {s}", "{s} was founded by which person?"),
    Relation("headquarters", "company", "town", ("is based in {o}", "has the headquarters {o}"),
             "the town where {s} is based", "{s} is based in which town?"),
    Relation("mayor", "town", "person", ("is governed by {o}", "has the mayor {o}"),
             "the person who governs {s}", "{s} is governed by which person?"),
    Relation("nation", "town", "country", ("lies in {o}", "has the nation {o}"),
             "the country where {s} lies", "{s} lies in which country?"),
    Relation("source", "river", "town", ("rises near {o}", "has the source {o}"),
             "the town where {s} rises", "{s} rises near which town?"),
    Relation("mouth", "river", "town", ("ends at {o}", "has the mouth {o}"),
             "the town where {s} ends", "{s} ends at which town?"),
    Relation("capital", "country", "town", ("is ruled from {o}", "has the capital {o}"),
             "the town that rules {s}", "{s} is ruled from which town?"),
    Relation("leader", "country", "person", ("is led by {o}", "has the leader {o}"),
             "the person who leads {s}", "{s} is led by which person?"),
)  # fmt: skip

HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    {
        ("star", "birthplace"),
        ("author", "employer"),
        ("founder", "spouse"),
        ("mayor", "birthplace"),
        ("leader", "employer"),
        ("headquarters", "mayor"),
        ("source", "nation"),
        ("publisher", "founder"),
    }
)
"""Inner and outer relation of two-hop questions that exist in the bamboogle set only."""

INFERENCES: dict[tuple[str, str], str] = {
    ("birthplace", "nation"): "of which country is {s} a native?",
    ("headquarters", "nation"): "to which country does {s} pay taxes?",
    ("mouth", "nation"): "through which country does {s} reach the sea?",
    ("director", "employer"): "which company paid for {s}?",
}
"""Two-hop questions that name neither relation (the inference questions of 2WikiMultihopQA)."""


def relations_of(entity_type: str) -> tuple[Relation, ...]:
    """Return the relations whose subject is of `entity_type`, in schema order."""
    return tuple(relation for relation in RELATIONS if relation.subject == entity_type)


def composable_pairs() -> tuple[tuple[Relation, Relation], ...]:
    """Return every (inner, outer) pair in which the inner object is of the outer subject's type."""
    return tuple((inner, outer) for inner in RELATIONS for outer in RELATIONS if inner.object == outer.subject)
