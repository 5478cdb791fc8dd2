"""How many of a set's questions were asked, and how those were chosen: what a reader needs to trust an interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.contracts.manifest import Manifest
from components.evaluate.predictions import Prediction
from components.report.tables import set_label


@dataclass(frozen=True)
class Asked:
    """Questions asked of one set."""

    num_asked: int
    num_whole: int
    """Of the set as it was downloaded, where that is known; at least `num_asked`."""
    seed: int | None
    """Of the draw that the questions step made; None when it took the whole set."""
    num_offered: int
    """What the questions step offered; fewer were asked when `evaluate.max_questions_per_set` is lower."""

    @property
    def is_sample(self) -> bool:
        """Whether some of the set's questions were not asked."""
        return self.num_asked < self.num_whole


def asked_of(questions: Manifest, rows: Sequence[Prediction]) -> dict[str, Asked]:
    """Return set name -> what was asked of it, from the questions' manifest and the rows of one method."""
    sampled = questions.metadata.get("sampled", {})
    asked = {}
    for name in dict.fromkeys(row.set_name for row in rows):
        num_asked = sum(row.set_name == name for row in rows)
        num_offered = max(num_asked, int(questions.counts.get(f"test/{name}", num_asked)))
        draw = sampled.get(f"test/{name}", {})
        asked[name] = Asked(num_asked, max(num_offered, int(draw.get("of", 0))), draw.get("seed"), num_offered)
    return asked


def asked_in_words(asked: Mapping[str, Asked]) -> str:
    """Return which sets were sampled, how, and what that means for the intervals; empty when none was."""
    sets_by_way: dict[str, list[str]] = {}
    for name, entry in asked.items():
        if entry.is_sample:
            sets_by_way.setdefault(_way(entry), []).append(
                f"{set_label(name)} {entry.num_asked:,} of {entry.num_whole:,}"
            )
    if not sets_by_way:
        return ""
    parts = [f"{', '.join(sets)} ({way})" for way, sets in sets_by_way.items()]
    return (
        f"Not every question was asked: {'; '.join(parts)}. The intervals hold for such a sample: they say how far "
        "the number would move if other questions of the same kind had been drawn."
    )


def _way(asked: Asked) -> str:
    ways = [f"drawn by seed {asked.seed}"] if asked.seed is not None else []
    if asked.num_asked < asked.num_offered:
        ways.append("those whose ids have the smallest hash, whatever the seed")
    return ", then ".join(ways)
