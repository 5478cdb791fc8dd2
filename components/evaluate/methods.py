"""The rows of the table: whose weights answer, and what a reader has to know about each."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from components.evaluate.config import Method

ModelInput = Literal[
    "checkpoint", "base_model", "sft_checkpoint", "rl_no_search_checkpoint", "rejection_sampling_checkpoint"
]


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
    "cot": MethodEntry(
        "base_model",
        "Chain of thought",
        "untrained, no search",
        "The untrained model reasons first and then answers, from its weights alone (Wei et al., arXiv:2201.11903; "
        "zero-shot after Kojima et al., arXiv:2205.11916). It helps a large model with questions of several steps "
        "whose facts it knows. A tiny base was never told to reason: after the question it makes up a document and "
        "answers from that, so that a number near zero is what it should show.",
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
    "ircot": MethodEntry(
        "base_model",
        "IRCoT",
        "untrained, thoughts are queries",
        "One sentence of thought, then a retrieval with that sentence, by turns; then an answer from all that was "
        "collected (Trivedi et al., arXiv:2212.10509). A tiny base writes no sentences of thought. What it reads from "
        "the passages so far takes their place: it drafts an answer, searches for the draft and reads again. Expect "
        "it near RAG, ahead of it only where the draft is the name that a second step needs.",
    ),
    "react": MethodEntry(
        "base_model",
        "ReAct",
        "untrained, prompted to search",
        "Thoughts, searches and observations by turns, explained by examples in the prompt (Yao et al., "
        "arXiv:2210.03629). It lives on following examples, which comes with size. A tiny base gets one example "
        "in the tags it knows and is more confused than helped by it: expect it at or below the base in the loop.",
    ),
    "search_o1": MethodEntry(
        "base_model",
        "Search-o1",
        "untrained, searches, reads apart",
        "The model searches while it reasons, and what is found is first read on the side, so that its reasoning is "
        "shown only what helps (Li et al., arXiv:2501.05366). Made for large reasoning models. A tiny base searches "
        "as blindly as in the loop, but the reading on the side is what its pretraining taught it: where a blind "
        "query happens to name the right thing, the answer is handed to it. Expect it between the base in the loop "
        "and RAG.",
    ),
    "sft": MethodEntry(
        "sft_checkpoint",
        "SFT",
        "trained on answers, no search",
        "Fine-tuned on questions and their gold answers (section 4.2). Good where the test asks for facts that the "
        "training also asked for, or that pretraining left in the weights; of a world it has never read it can only "
        "learn how answers look.",
    ),
    "rl_no_search": MethodEntry(
        "rl_no_search_checkpoint",
        "RL without search",
        "trained, no search",
        "Trained by the same algorithm with the same reward, but without a search engine (R1 in section 4.2). Where "
        "the answers cannot be known by heart, reward alone teaches it little more than to answer in the right form.",
    ),
    "rejection_sampling": MethodEntry(
        "rejection_sampling_checkpoint",
        "Rejection sampling",
        "trained on its right episodes",
        "The untrained model answers training questions several times in the search loop, and is fine-tuned on those "
        "episodes that ended right, on its own tokens alone (section 4.2). The same search, the same reward, used once "
        "instead of at every step: what lies between this row and Search-R1 is what learning from fresh attempts adds.",
    ),
}
"""In the order of the paper's story; the config decides which are run."""

_PROMPTS_ALONE = (
    "Chain of thought, IRCoT, ReAct and Search-o1 are prompts and nothing else: their rows show what instructions "
    "bring out of a model that was trained to follow them. A tiny base model was not. It gets each of them in the only "
    "words it knows, so that these rows say how far it gets by reading without having learnt to search, and nothing "
    "about how good the methods are with a large model."
)


def methods_lead(methods: Iterable[str]) -> str:
    """Return what a reader has to know before the single methods; empty where none of them is a prompt alone."""
    return _PROMPTS_ALONE if {"cot", "ircot", "react", "search_o1"}.intersection(methods) else ""
