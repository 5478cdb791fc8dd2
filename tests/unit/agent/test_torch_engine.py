"""The engine against plain forward passes and Hugging Face's own generation, for two model families."""

import re
from typing import ClassVar

import pytest
import torch

from components.agent.config import LoopConfig
from components.agent.engines.protocol import TurnRequest
from components.agent.engines.torch_engine import TorchEngine
from components.agent.episode_loop import EpisodeTask
from components.agent.rollout import rollout

FAMILIES = ["qwen2", "llama"]
CONTEXT = 96


class LetterVocabulary:
    """A tokenizer of single characters plus a few longer pieces."""

    eos_token_id = 0
    pad_token_id = None
    chat_template = None
    added_tokens_decoder: ClassVar[dict] = {}

    def __init__(self, pieces: tuple[str, ...] = ()) -> None:
        self.pieces = ["\N{END OF TEXT}", *map(chr, range(32, 127)), *pieces]

    def __len__(self):
        return len(self.pieces)

    def convert_ids_to_tokens(self, ids):
        return [self.pieces[i] for i in ids]

    def decode(self, ids):
        return "".join(self.pieces[i] for i in ids)

    def encode(self, text, *, add_special_tokens):
        return self.ids(text)

    def ids(self, text):
        return [self.pieces.index(character) for character in text]


VOCABULARY = LetterVocabulary()


def make_engine(model, tokenizer=VOCABULARY, num_slots=8, **settings) -> TorchEngine:
    return TorchEngine(model, tokenizer, num_slots=num_slots, max_context_tokens=CONTEXT, **settings)


def request(number, ids, *, new=12, temperature=1.0, seed=None) -> TurnRequest:
    return TurnRequest(number, ids, new, temperature, number if seed is None else seed)


def run(engine, requests) -> dict:
    for each in requests:
        engine.add_request(each)
    outputs = {}
    while engine.has_unfinished():
        outputs |= {output.sequence_id: output for output in engine.step()}
    return outputs


def prompts(count, longest=20):
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, longest, (count,), generator=generator).tolist()
    return [torch.randint(1, len(VOCABULARY), (length,), generator=generator).tolist() for length in lengths]


def plain_logprobs(model, ids, temperature=1.0) -> torch.Tensor:
    with torch.no_grad():
        logprobs = (model(torch.tensor([ids])).logits[0, :-1] / temperature).log_softmax(-1)
    return logprobs.gather(-1, torch.tensor(ids)[1:, None])[:, 0]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, make_model):
    return make_model(request.param, len(VOCABULARY))


def test_greedy_tokens_equal_hugging_face_generation(model):
    outputs = run(make_engine(model), [request(i, ids, temperature=0.0) for i, ids in enumerate(prompts(6))])
    for number, ids in enumerate(prompts(6)):
        options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": 0}
        expected = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), **options)
        assert outputs[number].token_ids == expected[0, len(ids) :].tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_equal_a_plain_forward(model, temperature):
    engine = make_engine(model)
    outputs = run(engine, [request(i, ids, temperature=temperature) for i, ids in enumerate(prompts(6))])
    for number, ids in enumerate(prompts(6)):
        own = outputs[number]
        expected = plain_logprobs(model, ids + own.token_ids, temperature)[len(ids) - 1 :]
        assert torch.allclose(torch.tensor(own.logprobs), expected, atol=1e-5)


def test_score_equals_a_plain_forward(model):
    ids = prompts(1)[0] + prompts(3)[2]
    assert make_engine(model).score(ids) == pytest.approx(plain_logprobs(model, ids).tolist(), abs=1e-5)


def test_cache_kept_over_turns_equals_a_fresh_forward(model):
    engine, contexts, said = make_engine(model, num_slots=3), prompts(3, longest=8), [[], [], []]
    for turn in range(3):
        outputs = run(engine, [request(i, list(ids), new=4 + i, seed=turn) for i, ids in enumerate(contexts)])
        for number, ids in enumerate(contexts):
            start = len(ids)
            ids += outputs[number].token_ids
            said[number] += [(start + k, logprob) for k, logprob in enumerate(outputs[number].logprobs)]
            # An observation, of another length for every sequence.
            ids += prompts(9)[number + 3 * turn][: 3 + number]
    for ids, turns in zip(contexts, said, strict=True):
        expected = plain_logprobs(model, ids)
        assert [logprob for _, logprob in turns] == pytest.approx(
            [expected[position - 1].item() for position, _ in turns], abs=1e-5
        )


def test_only_new_tokens_are_prefilled(model):
    widths = []
    engine = make_engine(CountingModel(model, widths))
    (ids,) = prompts(1, longest=30)
    first = run(engine, [request(0, ids, new=3)])[0]
    # The last sampled token was never an input; with it the observation of five tokens comes in one pass.
    run(engine, [request(0, ids + first.token_ids + [5] * 5, new=3)])
    assert widths == [len(ids), 1, 1, 6, 1, 1]


class CountingModel:
    """Notes how many tokens of a row every forward pass takes."""

    def __init__(self, model, widths):
        self.model, self.widths = model, widths

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, **arguments):
        self.widths.append(arguments["input_ids"].shape[1])
        return self.model(**arguments)


@pytest.mark.parametrize("num_slots", [1, 2, 5, 16])
@pytest.mark.parametrize("prefill_at", [0.0, 1.0])
def test_same_seed_same_tokens_whatever_else_runs(make_model, num_slots, prefill_at):
    model = make_model("qwen2", len(VOCABULARY))
    alone = {i: run(make_engine(model), [request(i, ids)])[i].token_ids for i, ids in enumerate(prompts(10))}
    engine = make_engine(model, num_slots=num_slots, prefill_at=prefill_at)
    crowd = release_when_done(engine, [request(i, ids) for i, ids in enumerate(prompts(10))])
    assert crowd == alone


def release_when_done(engine, requests) -> dict:
    for each in requests:
        engine.add_request(each)
    tokens = {}
    while engine.has_unfinished():
        for output in engine.step():
            tokens[output.sequence_id] = output.token_ids
            engine.release(output.sequence_id)
    return tokens


def test_another_seed_gives_other_tokens(make_model):
    engine = make_engine(make_model("qwen2", len(VOCABULARY)), num_slots=8)
    outputs = run(engine, [request(i, [5, 6], seed=i) for i in range(8)])
    assert len({tuple(output.token_ids) for output in outputs.values()}) == 8


def test_turns_of_a_sequence_draw_numbers_of_their_own(make_model):
    """Every token is as likely as any other whatever the context, so that the tokens are the numbers drawn."""
    model = make_model("qwen2", len(VOCABULARY))
    torch.nn.utils.vector_to_parameters(torch.zeros(sum(p.numel() for p in model.parameters())), model.parameters())
    engine = make_engine(model)
    first = run(engine, [request(0, [5])])[0].token_ids
    assert run(engine, [request(0, [5, *first])])[0].token_ids != first


def test_requests_join_and_leave_at_any_time(make_model):
    model = make_model("llama", len(VOCABULARY))
    lengths = {i: 2 + 3 * (i % 4) for i in range(9)}
    requests = [request(i, ids, new=lengths[i]) for i, ids in enumerate(prompts(9))]
    alone = {each.sequence_id: run(make_engine(model), [each])[each.sequence_id].token_ids for each in requests}
    engine, tokens, step = make_engine(model, num_slots=3), {}, 0
    while requests or engine.has_unfinished():
        if requests and step % 2 == 0:
            engine.add_request(requests.pop())
        for output in engine.step():
            tokens[output.sequence_id] = output.token_ids
            engine.release(output.sequence_id)
        step += 1
    assert tokens == alone
    assert all(len(ids) == lengths[i] or ids[-1] == VOCABULARY.eos_token_id for i, ids in tokens.items())


def test_sequence_without_a_slot_waits_until_one_is_released(make_model):
    engine = make_engine(make_model("qwen2", len(VOCABULARY)), num_slots=1)
    engine.add_request(request(0, [5], new=1))
    engine.add_request(request(1, [5], new=1))
    assert [output.sequence_id for output in engine.step()] == [0]
    assert not engine.has_unfinished()
    assert engine.step() == []
    engine.release(0)
    assert engine.has_unfinished()
    assert [output.sequence_id for output in engine.step()] == [1]
    assert not engine.has_unfinished()


def test_releasing_a_stranger_is_no_error(make_model):
    make_engine(make_model("qwen2", len(VOCABULARY))).release(99)


def forced(make_model, text, tokenizer, family="qwen2"):
    """A model that says `text` after any single token, then rambles: each id leads to the next one."""
    ids = text if isinstance(text, list) else tokenizer.ids(text)
    model = make_model(family, len(tokenizer))
    follow = dict(zip([1, *ids[:-1]], ids, strict=True))
    assert len(follow) == len(ids), "every token needs its own successor"
    return ForcedModel(model, follow)


class ForcedModel:
    """Replaces the logits of a model: after token t comes `follow[t]`, after any other token the one after it."""

    def __init__(self, model, follow):
        self.model, self.follow = model, follow

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, **arguments):
        output = self.model(**arguments)
        output.logits = torch.zeros_like(output.logits)
        for row, ids in enumerate(arguments["input_ids"].tolist()):
            output.logits[row, -1, self.follow.get(ids[-1], 2 + ids[-1] % 40)] = 50.0
        return output


PIECES = ("</", "sea", "rch", "answer", ">x", "<search>", "</search>", "b</", "r>", "answe", "é>")


@pytest.mark.parametrize(
    ("pieces", "finish"),
    [
        pytest.param(["<search>", "q", "</search>"], "stop", id="one-piece"),
        pytest.param(["q", "</", "sea", "rch", ">"], "stop", id="split-tag"),
        pytest.param(["q", "b</", "answer", ">"], "stop", id="tag-begins-inside-a-piece"),
        pytest.param(["q", "</", "answer", ">x"], "stop", id="tag-ends-inside-a-piece"),
        pytest.param(["<", "/", "a", "n", "s", "w", "e", "r", ">"], "stop", id="letter-by-letter"),
        pytest.param(["</", "answe", "r>"], "stop", id="split-at-the-end"),
        pytest.param(["q", "\N{END OF TEXT}"], "eos", id="end-of-text"),
        pytest.param(["<", "answer", ">", "q"], "length", id="opening-tag-is-no-stop"),
        pytest.param(["</", "sea", "q", "rch", ">"], "length", id="interrupted-tag"),
    ],
)
def test_turn_ends_exactly_where_it_should(pieces, finish, make_model):
    tokenizer = LetterVocabulary(PIECES)
    ids = [tokenizer.pieces.index(piece) for piece in pieces]
    engine = make_engine(forced(make_model, ids, tokenizer), tokenizer)
    output = run(engine, [request(0, [1], new=len(ids) if finish == "length" else 30, temperature=0.0)])[0]
    assert (output.token_ids, output.finish) == (ids, finish)
    assert len(output.logprobs) == len(ids)


@pytest.mark.parametrize(
    ("stop_strings", "text", "finish"),
    [
        pytest.param(("]\n",), "Find[x]\n", "stop", id="two-characters"),
        pytest.param(("\n", "]\n"), "a.\n", "stop", id="whichever-comes-first"),
        pytest.param(("\nDoc", "xDoc"), "abxDoc", "stop", id="ends-in-a-letter"),
        pytest.param(("]\n",), "a]b\n", "length", id="interrupted"),
        pytest.param(("\n",), "ab</search>", "length", id="the-tags-of-the-loop-are-replaced"),
        pytest.param((), "ab</answer>\n", "length", id="none"),
    ],
)
def test_a_request_may_bring_its_own_stop_strings(stop_strings, text, finish, make_model):
    tokenizer = LetterVocabulary(("\n", "</search>", "</answer>", "]\n"))
    pieces = [tokenizer.pieces.index(piece) for piece in _pieces_of(text)]
    engine = make_engine(forced(make_model, pieces, tokenizer), tokenizer)
    own = TurnRequest(0, [1], len(pieces) if finish == "length" else 30, 0.0, 0, stop_strings)
    output = run(engine, [own])[0]
    assert (output.token_ids, output.finish) == (pieces, finish)


def _pieces_of(text):
    """Cut into letters, tags whole."""
    return [piece for piece in re.split(r"(</\w+>|)", text) if piece]


def test_requests_of_one_batch_stop_each_at_its_own_strings(make_model):
    tokenizer = LetterVocabulary(("\n", "</search>"))
    ids = [
        *tokenizer.ids("ab"),
        tokenizer.pieces.index("\n"),
        *tokenizer.ids("cd"),
        tokenizer.pieces.index("</search>"),
    ]
    engine = make_engine(forced(make_model, ids, tokenizer), tokenizer)
    line = TurnRequest(1, [1], 30, 0.0, 0, ("\n",))
    outputs = run(engine, [request(0, [1], new=30, temperature=0.0), line])
    assert (outputs[0].token_ids, outputs[1].token_ids) == (ids, ids[:3])


def test_tags_of_the_prompt_stop_nothing(make_model):
    tokenizer = LetterVocabulary(PIECES)
    engine = make_engine(forced(make_model, "q", tokenizer), tokenizer)
    ids = tokenizer.ids("</search></answer>")
    assert run(engine, [request(0, ids, new=5, temperature=0.0)])[0].finish == "length"


def test_closing_tag_of_the_turn_before_stops_nothing(make_model):
    tokenizer = LetterVocabulary(PIECES)
    engine = make_engine(forced(make_model, [tokenizer.pieces.index("</search>")], tokenizer), tokenizer)
    ids = [1, *run(engine, [request(0, [1], temperature=0.0)])[0].token_ids]
    follow_up = run(engine, [request(0, [*ids, tokenizer.pieces.index(">x")], new=4, temperature=0.0)])[0]
    assert (follow_up.finish, len(follow_up.token_ids)) == ("length", 4)


def test_several_end_tokens_of_the_generation_config_all_end(make_model):
    tokenizer = LetterVocabulary(PIECES)
    model = forced(make_model, [tokenizer.pieces.index("b</"), tokenizer.pieces.index("é>")], tokenizer)
    model.generation_config.eos_token_id = [tokenizer.pieces.index("b</"), tokenizer.pieces.index("q")]
    assert run(make_engine(model, tokenizer), [request(0, [1], temperature=0.0)])[0].finish == "eos"


def perturbed(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "stale-without-reset"])
def test_cache_is_reset_after_a_weight_change(reset, make_model):
    model = make_model("qwen2", len(VOCABULARY))
    engine, ids = make_engine(model), prompts(4)[3] * 3
    said = run(engine, [request(0, ids, new=2)])[0].token_ids
    perturbed(model)
    if reset:
        engine.reset_cache()
    after = run(engine, [request(0, ids + said, new=4)])[0]
    expected = plain_logprobs(model, ids + said + after.token_ids)[-4:]
    agrees = torch.allclose(torch.tensor(after.logprobs), expected, atol=1e-5)
    assert agrees == reset


def test_reset_frees_every_slot(make_model):
    engine = make_engine(make_model("qwen2", len(VOCABULARY)), num_slots=2)
    run(engine, [request(0, [5]), request(1, [6])])
    engine.reset_cache()
    assert set(run(engine, [request(2, [5]), request(3, [6])])) == {2, 3}


@pytest.mark.parametrize(("length", "fits"), [(CONTEXT - 12, True), (CONTEXT - 11, False)])
def test_context_limit_is_exact(length, fits, make_model):
    engine = make_engine(make_model("qwen2", len(VOCABULARY)))
    if not fits:
        with pytest.raises(ValueError, match="97 tokens of context, the engine has 96"):
            engine.add_request(request(0, [5] * length))
        return
    model, ids = engine.model, [5 + i % 7 for i in range(length)]
    output = run(engine, [request(0, ids)])[0]
    assert len(output.token_ids) == 12
    expected = plain_logprobs(model, ids + output.token_ids)[-12:]
    assert torch.allclose(torch.tensor(output.logprobs), expected, atol=1e-5)


def test_slots_reused_by_shorter_sequences_see_nothing_of_the_former(make_model):
    model = make_model("llama", len(VOCABULARY))
    engine = make_engine(model, num_slots=1)
    run(engine, [request(0, prompts(1, longest=60)[0], new=20)])
    engine.release(0)
    output = run(engine, [request(1, [7, 8], new=5)])[1]
    expected = plain_logprobs(model, [7, 8, *output.token_ids])[-5:]
    assert torch.allclose(torch.tensor(output.logprobs), expected, atol=1e-5)


@pytest.mark.parametrize("reproducible", [True, False])
def test_rollout_over_fewer_slots_than_episodes(reproducible, make_model, make_client):
    tokenizer = LetterVocabulary((*PIECES, "\n", "<answer>", "</answer>"))
    said = [tokenizer.pieces.index(p) for p in ("<search>", "q", "</search>", "<answer>", "Q", "</answer>")]
    prompt, newline = tokenizer.pieces.index("?"), tokenizer.pieces.index("\n")
    model = forced(make_model, said, tokenizer)
    # After the prompt a search, after the observation an answer.
    model.follow = dict(zip([prompt, *said[:2], newline, *said[3:5]], said, strict=True))
    engine, client = make_engine(model, tokenizer, num_slots=2), make_client()
    tasks = [EpisodeTask(f"q{i}", [5] * i + [prompt], seed=i, temperature=1.0) for i in range(5)]
    loop = LoopConfig(max_context_tokens=CONTEXT, max_observation_tokens=60, max_turn_tokens=8)
    episodes = rollout(engine, client, tasks, loop, tokenizer, reproducible=reproducible)
    assert [episode.answer for episode in episodes] == ["Q"] * 5
    assert client.queries == ["q"] * 5
    for episode in episodes:
        assert [t for t, own in zip(episode.token_ids, episode.is_model_token, strict=True) if own] == said
