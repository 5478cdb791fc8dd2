"""A passage of the corpus, as stored (wiki-18 layout) and as found."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Passage:
    """`contents` is a quoted title line, a newline and the text; a corpus without titles has the text alone."""

    id: str
    contents: str

    @property
    def title(self) -> str:
        """The first line without its quotation marks; empty when the passage has one line only."""
        head, newline, _ = self.contents.partition("\n")
        return head.strip().strip('"') if newline else ""

    @property
    def text(self) -> str:
        """Everything after the title line."""
        head, newline, rest = self.contents.partition("\n")
        return rest.strip() if newline else head.strip()


@dataclass(frozen=True, slots=True)
class ScoredPassage:
    """A passage a search returned; higher scores are better, lists come best first."""

    passage: Passage
    score: float
