"""Sequences change slots while they run and while they wait; nobody may notice."""

import random

import pytest
import torch

from components.agent.engines.protocol import TurnRequest
from components.agent.engines.torch_engine import TorchEngine

CONTEXT = 160


def plain_logprobs(model, ids) -> torch.Tensor:
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return logprobs.gather(-1, torch.tensor(ids)[1:, None])[:, 0]


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize(("num_slots", "prefill_at"), [(3, 0.0), (5, 0.5), (9, 1.0)])
def test_logprobs_survive_turns_that_begin_wait_and_end_in_any_order(
    family, num_slots, prefill_at, make_model, world_tokenizer
):
    model, rng = make_model(family, len(world_tokenizer)), random.Random(num_slots)
    engine = TorchEngine(model, world_tokenizer, num_slots=num_slots, max_context_tokens=CONTEXT, prefill_at=prefill_at)
    contexts = [[rng.randrange(1, 200) for _ in range(rng.randrange(1, 20))] for _ in range(9)]
    turns_left, said, waiting = [rng.randrange(1, 4) for _ in contexts], [[] for _ in contexts], []

    def ask(number):
        new_tokens = rng.randrange(1, 9)
        engine.add_request(TurnRequest(number, list(contexts[number]), new_tokens, 1.0, number))

    for number in range(9):
        ask(number)
    while engine.has_unfinished() or waiting:
        for output in engine.step():
            number = output.sequence_id
            start = len(contexts[number])
            contexts[number] += output.token_ids
            said[number] += [(start + k, logprob) for k, logprob in enumerate(output.logprobs)]
            turns_left[number] -= 1
            if turns_left[number]:
                contexts[number] += [rng.randrange(1, 200) for _ in range(rng.randrange(1, 12))]
                waiting.append(number)
            else:
                engine.release(number)
        while waiting and (rng.random() < 0.3 or not engine.has_unfinished()):
            ask(waiting.pop(rng.randrange(len(waiting))))
    for ids, turns in zip(contexts, said, strict=True):
        expected = plain_logprobs(model, ids)
        found = [logprob for _, logprob in turns]
        assert found == pytest.approx([expected[position - 1].item() for position, _ in turns], abs=1e-5)


def test_a_forward_pass_covers_no_row_but_those_that_run(make_model, world_tokenizer):
    """Rows that wait, in whatever slot, cost nothing."""
    rows = []

    class Counting:
        def __init__(self, model):
            self.model = model

        def __getattr__(self, name):
            return getattr(self.model, name)

        def __call__(self, **arguments):
            rows.append(len(arguments["input_ids"]))
            return self.model(**arguments)

    model = Counting(make_model("qwen2", len(world_tokenizer)))
    engine = TorchEngine(model, world_tokenizer, num_slots=8, max_context_tokens=CONTEXT, prefill_at=1.0)
    for number in range(8):
        # The last sequence talks longest, in the highest slot; the others keep their slots and wait.
        engine.add_request(TurnRequest(number, [5, 6], 2 + 3 * (number == 7), 1.0, number, ()))
    while engine.has_unfinished():
        engine.step()
    assert rows == [8, 8, 1, 1, 1]


def test_prompts_and_long_observations_do_not_pad_one_another(make_model, world_tokenizer):
    """Eight short contexts and one long one in a pass of their own each: nobody is read at the length of another."""
    shapes, plain = [], make_model("qwen2", len(world_tokenizer))

    class Recording:
        def __getattr__(self, name):
            return getattr(plain, name)

        def __call__(self, **arguments):
            shapes.append(tuple(arguments["input_ids"].shape))
            return plain(**arguments)

    engine = TorchEngine(Recording(), world_tokenizer, num_slots=9, max_context_tokens=CONTEXT, prefill_at=1.0)
    for number in range(9):
        engine.add_request(TurnRequest(number, [5] * (100 if number == 4 else 10 + number % 3), 1, 1.0, number, ()))
    outputs = engine.step()
    assert sorted(output.sequence_id for output in outputs) == list(range(9))
    assert sorted(shapes) == [(1, 100), (8, 12)]
