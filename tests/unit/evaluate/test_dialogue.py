import pytest

from components.agent.config import LoopConfig
from components.contracts.episode import Action, StopReason
from components.contracts.errors import ConfigError
from components.contracts.passage import Passage, ScoredPassage
from components.evaluate.baselines.dialogue import Dialogue, hold
from components.evaluate.baselines.passages import distinct, prompt_with_passages
from components.search.concurrent import ConcurrentSearch

LOOP = LoopConfig(max_turn_tokens=20, max_observation_tokens=30, max_context_tokens=100)


@pytest.fixture
def converse(scripted, dict_searcher):
    """Run one script per prompt; returns episodes, engine, and the episodes in the order in which they ended."""

    def run(script, reply, prompts=("ask:",), failing=frozenset()):
        model, ended = scripted(reply), []
        dialogues = [
            Dialogue(f"q{i}", model.tokenizer.encode(prompt, add_special_tokens=False), LOOP, model.tokenizer)
            for i, prompt in enumerate(prompts)
        ]
        searcher = dict_searcher({"ada": '"Ada"\nborn in London'}, failing)
        with ConcurrentSearch(searcher, 1, retries=0, window_s=0.0) as client:
            episodes = hold(dialogues, [script(each) for each in dialogues], model, client, ended.append)
        return episodes, model, ended

    return run


def text_of(model, episode, *, sampled):
    pairs = zip(episode.token_ids, episode.is_model_token, strict=True)
    return model.tokenizer.decode([i for i, own in pairs if own == sampled])


def one_search(dialogue):
    query = yield from dialogue.write_turn(99)
    dialogue.decide(Action.SEARCH, query)
    found = yield from dialogue.find(query)
    dialogue.show(found[0].passage.text, "[", "]")
    dialogue.answer((yield from dialogue.write_turn(99)))


def test_a_script_gets_what_it_asks_for(converse):
    (episode,), model, ended = converse(one_search, lambda context: "London" if "[" in context else "ada")
    assert [context for context, _ in model.engine.seen] == ["ask:", "ask:ada[born in London]"]
    assert (episode.answer, episode.stop_reason, episode.num_searches) == ("London", StopReason.ANSWERED, 1)
    assert [turn.action for turn in episode.turns] == [Action.SEARCH, Action.ANSWER]
    assert text_of(model, episode, sampled=True) == "adaLondon"
    assert text_of(model, episode, sampled=False) == "ask:[born in London]"
    assert len(episode.logprobs) == len(episode.token_ids) and ended == [episode] and model.engine.released == [0]


def test_a_failed_search_ends_its_own_dialogue_alone(converse):
    def reply(context):
        return "London" if "[" in context else context[:3]

    episodes, model, ended = converse(one_search, reply, ("bad:", "ada:"), failing=frozenset({"bad"}))
    failed, good = episodes
    assert failed.stop_reason is StopReason.SEARCH_FAILED and "engine is down" in failed.searches[0].error
    assert (failed.answer, good.answer) == (None, "London") and len(ended) == 2
    assert sorted(model.engine.released) == [0, 1]


def test_neighbours_change_nothing(converse):
    def reply(context):
        return "London" if "[" in context else "ada"

    alone = [converse(one_search, reply, (prompt,))[0][0].token_ids for prompt in ("a:", "bb:", "ccc:")]
    together, _, _ = converse(one_search, reply, ("a:", "bb:", "ccc:"))
    assert [episode.token_ids for episode in together] == alone


def test_the_end_of_text_is_kept_in_the_transcript_and_out_of_the_context(converse):
    (episode,), model, _ = converse(one_search, lambda context: "ada\N{END OF TEXT}")
    assert model.engine.seen[1][0] == "ask:ada[born in London]" and episode.searches[0].query == "ada"
    assert text_of(model, episode, sampled=True) == "ada\N{END OF TEXT}" * 2


def test_a_new_context_releases_the_sequence_and_is_not_repeated_in_the_transcript(converse):
    def script(dialogue):
        yield from dialogue.write_turn(3)
        dialogue.note("(told)")
        dialogue.restart(dialogue.tokenizer.encode("anew:", add_special_tokens=False))
        dialogue.answer((yield from dialogue.write_turn(3)))

    (episode,), model, _ = converse(script, lambda context: "xyz")
    assert [context for context, _ in model.engine.seen] == ["ask:", "anew:"] and model.engine.released == [0, 0]
    assert model.tokenizer.decode(episode.token_ids) == "ask:xyz(told)xyz"


def endless(dialogue):
    while True:
        yield from dialogue.write_turn(20)


def talkative(dialogue):
    while True:
        dialogue.show("x" * 30)
        yield from dialogue.write_turn(1)


@pytest.mark.parametrize("script", [pytest.param(endless, id="model"), pytest.param(talkative, id="observations")])
def test_a_full_context_ends_the_dialogue_without_an_answer(converse, script):
    (episode,), model, _ = converse(script, lambda context: "y" * 20)
    assert (episode.stop_reason, episode.answer) == (StopReason.CONTEXT_FULL, None)
    assert all(len(context) < 100 for context, _ in model.engine.seen)


def test_an_observation_is_cut_but_not_what_stands_around_it(converse):
    def script(dialogue):
        dialogue.show("word " * 50, "<open>", "<close>")
        dialogue.answer((yield from dialogue.write_turn(5)))

    _, model, _ = converse(script, lambda context: "x")
    shown = model.engine.seen[0][0].removeprefix("ask:")
    assert shown.startswith("<open>word") and shown.endswith("<close>") and len(shown) == 30


def test_a_prompt_without_room_is_a_user_error(converse):
    with pytest.raises(ConfigError, match="q0 takes 100 tokens"):
        converse(endless, str, ("x" * 100,))


@pytest.mark.parametrize(
    ("limit", "length"),
    [
        pytest.param(40, 40 + 1, id="limit"),
        pytest.param(500, 100 - 20 - len("prompt:") + 1, id="context"),
        pytest.param(0, 1, id="no-room-at-all"),
    ],
)
def test_passages_in_a_prompt_are_cut(dict_searcher, scripted, limit, length):
    found = dict_searcher({"q": '"T"\n' + "word " * 100}).search(["q"], 1)[0]
    tokenizer = scripted(str).tokenizer
    ids = prompt_with_passages(lambda shown: list(map(ord, f"prompt:{shown}")), found, limit, LOOP, tokenizer)
    assert len(ids) == len("prompt:") + length


def test_a_passage_found_twice_stands_where_it_was_found_first():
    """Parts of one article share their title, and are passages of their own."""
    found = [ScoredPassage(Passage(name, f'"T"\npart {name}'), score) for name, score in (("a", 3), ("b", 2), ("a", 1))]
    assert distinct(found) == found[:2]
