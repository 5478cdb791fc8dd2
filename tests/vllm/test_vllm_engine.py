"""vLLM's engine against the torch engine and plain forward passes: same tokens, same numbers, same ends."""

from itertools import pairwise

import numpy as np
import pytest

from components.agent.config import LoopConfig, VllmConfig
from components.agent.engines.protocol import TurnRequest
from components.agent.engines.vllm_engine import _device_arguments
from components.agent.episode_loop import EpisodeTask
from components.agent.prompt import prompt_ids
from components.agent.rollout import rollout
from components.train.sharding import whole_parameters

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

BUNDLED_ONLY = pytest.mark.parametrize("opened", ["bundled"], indirect=True, scope="session")
CUTTING_ONLY = pytest.mark.parametrize("opened", ["cutting"], indirect=True, scope="session")
QUESTIONS = [
    "who is the founder of the company that published the book tevu puta?",
    "who wrote the book dega duta?",
    "where is the company dega duta based?",
    "who is the spouse of muvo tozu?",
    "in which country is the town beko loko?",
    "who directed the film pomu fidu?",
]


def request(number, ids, *, new=12, temperature=0.0, seed=None, stops=None) -> TurnRequest:
    extra = () if stops is None else (stops,)
    return TurnRequest(number, ids, new, temperature, number if seed is None else seed, *extra)


def run(engine, requests) -> dict:
    for each in requests:
        engine.add_request(each)
    outputs = {}
    while engine.has_unfinished():
        outputs |= {output.sequence_id: output for output in engine.step()}
    for each in requests:
        engine.release(each.sequence_id)
    return outputs


def prompts(pair, count=8):
    texts = [QUESTIONS[i % len(QUESTIONS)][i:] for i in range(count)]
    return [pair.tokenizer.encode(text, add_special_tokens=False) for text in texts]


def test_greedy_turns_equal_the_torch_engines(pair):
    requests = [request(i, ids) for i, ids in enumerate(prompts(pair))]
    ours, theirs = run(pair.vllm, requests), run(pair.torch, requests)
    for number in range(len(requests)):
        assert ours[number].token_ids == theirs[number].token_ids
        assert ours[number].finish == theirs[number].finish
        assert ours[number].logprobs == pytest.approx(theirs[number].logprobs, abs=2e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_the_trainers_at_the_temperature_sampled(pair, temperature):
    sequences = prompts(pair)
    outputs = run(pair.vllm, [request(i, ids, temperature=temperature) for i, ids in enumerate(sequences)])
    for number, ids in enumerate(sequences):
        own = outputs[number]
        expected = pair.logprobs(ids + own.token_ids, temperature)[len(ids) - 1 :]
        assert own.logprobs == pytest.approx(expected.tolist(), abs=2e-5)


def test_score_of_a_full_context_is_the_trainers(pair):
    limit = pair.vllm.max_context_tokens
    ids = [token for ids in prompts(pair) * 8 for token in ids][:limit]
    assert len(ids) == limit
    errors = np.abs(np.array(pair.vllm.score(ids)) - pair.logprobs(ids).numpy())
    # In float32 the trainer itself is off by as much: 1e-4 at the worst token of the bundled model.
    assert errors.mean() < 1e-5
    assert errors.max() < 1e-3
    with pytest.raises(ValueError, match=f"{limit + 1} tokens of context, the engine has {limit}"):
        pair.vllm.score([*ids, 1])


@pytest.mark.parametrize(
    ("tokens", "mode", "largest"),
    [pytest.param(2048, "FULL", 2048, id="default"), pytest.param(100, "FULL", 96, id="few"), (0, "NONE", None)],
)
def test_a_gpu_replays_steps_of_up_to_the_tokens_asked_for(cutting_folder, tokens, mode, largest):
    from vllm.engine.arg_utils import EngineArgs

    settings = VllmConfig(cuda_graph_tokens=tokens)
    arguments = EngineArgs(model=str(cutting_folder), **_device_arguments(settings, on_cpu=False))
    sizes = arguments.compilation_config.cudagraph_capture_sizes
    assert arguments.compilation_config.cudagraph_mode.name == mode
    assert arguments.enforce_eager is (tokens == 0)
    assert (max(sizes) if sizes else None) == largest
    assert all(after - before <= max(8, before / 8) for before, after in pairwise(sizes))


@pytest.mark.parametrize(
    ("settings", "argument", "expected"),
    [
        pytest.param({}, "dtype", "bfloat16", id="precision"),
        pytest.param({"dtype": "float32"}, "dtype", "float32", id="own-precision"),
        pytest.param({}, "gpu_memory_utilization", 0.45, id="share-of-the-memory"),
        pytest.param({"gpu_memory_frac": 0.3}, "gpu_memory_utilization", 0.3, id="own-share"),
        pytest.param({}, "kv_cache_memory_bytes", None, id="cache-takes-what-is-left"),
        pytest.param({"kv_cache_bytes": 1 << 30}, "kv_cache_memory_bytes", 1 << 30, id="own-size-of-the-cache"),
        pytest.param({}, "enable_sleep_mode", False, id="awake"),
        pytest.param({"sleep_between_rollouts": True}, "enable_sleep_mode", True, id="sleeping"),
        pytest.param({}, "async_scheduling", True, id="planned-ahead"),
        pytest.param({"async_scheduling": False}, "async_scheduling", False, id="step-by-step"),
    ],
)
def test_a_gpu_is_used_as_asked_for(cutting_folder, settings, argument, expected):
    from vllm.engine.arg_utils import EngineArgs

    arguments = EngineArgs(model=str(cutting_folder), **_device_arguments(VllmConfig(**settings), on_cpu=False))
    assert getattr(arguments, argument) == expected


@CUTTING_ONLY
def test_a_step_under_way_ends_before_cache_and_weights_change(pair, write_script):
    pieces = ["q", "</", "answer", ">"]
    ids = [pair.tokenizer.get_vocab()[piece] for piece in pieces]
    write_script(pair.model, dict(zip([1, *ids[:-1]], ids, strict=True)))
    pair.publish()
    under_way = pair.vllm._llm.engine_core.engine_core.batch_queue

    def weights():
        assert not under_way, "a step reads weights that change"
        yield from whole_parameters(pair.model)

    for change in (pair.vllm.reset_cache, lambda: pair.vllm.publish(weights())):
        assert run(pair.vllm, [request(0, [1], new=30)])[0].finish == "stop"
        assert under_way, "the engine plans no step ahead: this test shows nothing"
        change()
        assert not under_way


@CUTTING_ONLY
@pytest.mark.parametrize("name", ["vllm", "torch"])
def test_context_limit_is_exact(pair, name):
    engine = getattr(pair, name)
    limit = engine.max_context_tokens
    with pytest.raises(ValueError, match=f"turn needs {limit + 1} tokens of context, the engine has {limit}"):
        engine.add_request(request(0, [5] * (limit - 11)))
    output = run(engine, [request(0, [5 + i % 7 for i in range(limit - 12)], stops=())])[0]
    assert (len(output.token_ids), output.finish) == (12, "length")


@CUTTING_ONLY
def test_temperatures_vllm_would_change_are_refused(pair):
    with pytest.raises(ValueError, match=r"at 0 or from 0\.01 on"):
        pair.vllm.add_request(request(0, [5], temperature=0.0099))
    assert not pair.vllm.has_unfinished()
    output = run(pair.vllm, [request(0, [5, 6], new=4, temperature=0.01, stops=())])[0]
    assert output.logprobs == pytest.approx(pair.logprobs([5, 6, *output.token_ids], 0.01)[1:].tolist(), abs=1e-3)


@CUTTING_ONLY
@pytest.mark.parametrize(
    ("pieces", "finish"),
    [
        pytest.param(["q", "</", "sea", "rch", ">"], "stop", id="split-tag"),
        pytest.param(["q", "b</", "answer", ">"], "stop", id="tag-begins-inside-a-token"),
        pytest.param(["q", "</", "answer", ">x"], "stop", id="tag-ends-inside-a-token"),
        pytest.param(["<", "/", "a", "n", "s", "w", "e", "r", ">"], "stop", id="letter-by-letter"),
        pytest.param(["</", "answe", "r>"], "stop", id="split-at-the-end"),
        pytest.param(["q", "<|end|>"], "eos", id="end-of-text"),
        pytest.param(["q", "~"], "eos", id="end-that-the-generation-config-names"),
        pytest.param(["<", "answer", ">", "q"], "length", id="opening-tag-is-no-stop"),
        pytest.param(["</", "sea", "q", "rch", ">"], "length", id="interrupted-tag"),
    ],
)
def test_turn_ends_at_the_token_that_completes_the_tag(pair, write_script, pieces, finish):
    ids = [pair.tokenizer.get_vocab()[piece] for piece in pieces]
    write_script(pair.model, dict(zip([1, *ids[:-1]], ids, strict=True)))
    pair.publish()
    turn = request(0, [1], new=len(ids) if finish == "length" else 30)
    for engine in (pair.vllm, pair.torch):
        output = run(engine, [turn])[0]
        assert (output.token_ids, output.finish, len(output.logprobs)) == (ids, finish, len(ids))


@CUTTING_ONLY
@pytest.mark.parametrize(
    ("stops", "length"),
    [
        pytest.param(("c",), 3, id="own"),
        pytest.param(("cd", "b"), 2, id="first-completed"),
        pytest.param((), 9, id="none"),
    ],
)
def test_a_request_brings_its_own_stop_strings(pair, write_script, stops, length):
    ids = pair.tokenizer.convert_tokens_to_ids(list("abcdefghi"))
    write_script(pair.model, dict(zip([1, *ids[:-1]], ids, strict=True)))
    pair.publish()
    output = run(pair.vllm, [request(0, [1], new=9, stops=stops)])[0]
    assert (output.token_ids, output.finish) == (ids[:length], "stop" if stops else "length")


def test_same_seed_same_tokens_whatever_else_runs(pair):
    requests = [request(i, ids, temperature=1.0) for i, ids in enumerate(prompts(pair, 12))]
    alone = {each.sequence_id: run(pair.vllm, [each])[each.sequence_id].token_ids for each in requests}
    crowd = run(pair.vllm, requests[::-1])
    assert {number: output.token_ids for number, output in crowd.items()} == alone
    other = run(pair.vllm, [request(i, each.token_ids, temperature=1.0, seed=99) for i, each in enumerate(requests)])
    assert {number: output.token_ids for number, output in other.items()} != alone


@CUTTING_ONLY
def test_requests_join_and_leave_at_any_time(pair):
    lengths = {i: 2 + 3 * (i % 4) for i in range(9)}
    requests = [request(i, [5 + i, 6], new=lengths[i], stops=()) for i in range(9)]
    alone = run(pair.torch, requests[:9])
    tokens, step = {}, 0
    while requests or pair.vllm.has_unfinished():
        if requests and step % 2 == 0:
            pair.vllm.add_request(requests.pop())
        if step == 5:
            # Scoring drives the engine too; what ends meanwhile must not be lost.
            pair.vllm.score([5, 6, 7])
        tokens |= {output.sequence_id: output.token_ids for output in pair.vllm.step()}
        step += 1
    assert tokens == {number: output.token_ids for number, output in alone.items()}


@CUTTING_ONLY
def test_released_and_reset_turns_never_come_back(pair):
    for number in range(4):
        pair.vllm.add_request(request(number, [5 + number], new=20, stops=()))
    pair.vllm.step()
    pair.vllm.release(2)
    pair.vllm.release(77)
    assert set(run(pair.vllm, [])) == {0, 1, 3}
    pair.vllm.add_request(request(5, [5], new=20))
    pair.vllm.step()
    pair.vllm.reset_cache()
    assert not pair.vllm.has_unfinished()
    assert pair.vllm.step() == []


@CUTTING_ONLY
@pytest.mark.parametrize(
    ("forget", "handed_out"),
    [
        pytest.param(lambda engine: None, [0], id="kept"),
        pytest.param(lambda engine: engine.release(0), [], id="released"),
        pytest.param(lambda engine: engine.reset_cache(), [], id="reset"),
    ],
)
def test_a_turn_that_ended_while_a_text_was_scored_is_handed_out_unless_forgotten(pair, forget, handed_out):
    pair.vllm.add_request(request(0, [5, 6], new=1, stops=()))
    pair.vllm.score([5, 6, 7])
    forget(pair.vllm)
    assert pair.vllm.has_unfinished() is bool(handed_out)
    assert [output.sequence_id for output in pair.vllm.step()] == handed_out
    assert not pair.vllm.has_unfinished()


LOOP = LoopConfig()


def tasks(pair, temperature):
    texts = QUESTIONS * 2
    return [
        EpisodeTask(f"q{i}", prompt_ids(text, LOOP, pair.tokenizer), seed=i, temperature=temperature)
        for i, text in enumerate(texts)
    ]


def told(episode):
    queries = [search.query for search in episode.searches]
    return episode.token_ids, episode.is_model_token, queries, episode.stop_reason, episode.answer


@BUNDLED_ONLY
def test_greedy_episodes_equal_the_torch_engines(pair, library):
    ours = rollout(pair.vllm, library, tasks(pair, 0.0), LOOP, pair.tokenizer)
    theirs = rollout(pair.torch, library, tasks(pair, 0.0), LOOP, pair.tokenizer)
    assert max(len(episode.turns) for episode in ours) > 1
    for own, other in zip(ours, theirs, strict=True):
        assert told(own) == told(other)
        assert own.logprobs == pytest.approx(other.logprobs, abs=2e-5)


@BUNDLED_ONLY
def test_same_seed_same_episode_whatever_else_runs(pair, library):
    everything = tasks(pair, 1.0)
    alone = [told(rollout(pair.vllm, library, [task], LOOP, pair.tokenizer)[0]) for task in everything]
    crowd = rollout(pair.vllm, library, everything[::-1], LOOP, pair.tokenizer)[::-1]
    assert [told(episode) for episode in crowd] == alone
    assert len({tuple(ids) for ids, *_ in alone}) == len(alone)


@BUNDLED_ONLY
def test_turns_after_a_search_find_their_context_in_the_cache(pair, library):
    engine = pair.vllm
    rollout(engine, library, tasks(pair, 0.0)[:6], LOOP, pair.tokenizer)
    before = engine.num_cached_prompt_tokens, engine.num_prompt_tokens
    # The same questions again: all but the last block of every context is there.
    rollout(engine, library, tasks(pair, 0.0)[:6], LOOP, pair.tokenizer)
    cached, asked = engine.num_cached_prompt_tokens - before[0], engine.num_prompt_tokens - before[1]
    assert cached > 0.4 * asked
