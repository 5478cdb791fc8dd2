"""The rows of the table: whose weights answer, and what a reader has to know about each."""

from dataclasses import dataclass
from typing import Literal

from components.evaluate.config import Method

ModelInput = Literal["checkpoint", "base_model", "rl_no_search_checkpoint"]


@dataclass(frozen=True)
class MethodEntry:
    """A method as code and as words; `model` names the step's input that holds its weights."""

    model: ModelInput
    label: str
    note: str
    meaning: str


METHODS: dict[Method, MethodEntry] = {
    "search_r1": MethodEntry(
        "checkpoint",
        "Search-R1",
        "trained, searches",
        "The model after reinforcement learning (arXiv:2503.09516, section 3). It writes, may search, reads what was "
        "found, may search again, and answers. Nothing but its final answer was rewarded; no example of a good "
        "search was ever shown to it.",
    ),
    "base": MethodEntry(
        "base_model",
        "Base in the loop",
        "untrained, searches",
        "The same network before reinforcement learning, in the same loop, with the same prompt and the same index. "
        "What lies between this row and Search-R1 is what training bought.",
    ),
    "direct": MethodEntry(
        "base_model",
        "Direct",
        "untrained, no search",
        "The untrained model answers at once, from its weights alone (section 4.2). A large model knows many answers; "
        "a tiny one that was pretrained on other names knows none and can only repeat a name of the question, so "
        "that a number near zero is what it should show.",
    ),
    "rag": MethodEntry(
        "base_model",
        "RAG",
        "untrained, one retrieval",
        "The question itself is the query, once; the untrained model reads the passages found and answers "
        "(section 4.2; Lewis et al., arXiv:2005.11401). Strong where the passage that shares the question's words "
        "holds the answer, weak where a second query needs the first one's result. A tiny model can do this only as "
        "far as its pretraining taught it to read.",
    ),
    "rl_no_search": MethodEntry(
        "rl_no_search_checkpoint",
        "RL without search",
        "trained, no search",
        "Trained by the same algorithm with the same reward, but without a search engine (R1 in section 4.2). Where "
        "the answers cannot be known by heart, reward alone teaches it little more than to answer in the right form.",
    ),
}
"""In the order of the paper's story; the config decides which are run."""
