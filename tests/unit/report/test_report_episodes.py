import re

import pytest

from components.contracts.manifest import FileEntry, Manifest, ProducedBy
from components.report.episodes import EpisodeView, episode_viewer
from components.report.lineage import duration, lineage_list
from components.report.spans import Span

SCRIPT = "</span><script>alert(1)</script>"


def view(**changes) -> EpisodeView:
    given = {
        "question_id": "nq:1",
        "set_name": "nq",
        "question": "Who?",
        "golden_answers": ("Ada", "Ada Lovelace"),
        "prediction": "Ada",
        "has_answer": True,
        "em": 1.0,
        "num_searches": 1,
        "stop_reason": "answered",
        "spans": (
            Span(source="prompt", text="Answer.", num_tokens=1),
            Span(source="model", text="<search> Ada </search>", num_tokens=3),
            Span(source="retrieved", text="\n\n<information>Ada</information>\n\n", num_tokens=3),
            Span(source="model", text="<answer>Ada</answer>", num_tokens=3),
        ),
    }
    return EpisodeView(**(given | changes))


def test_model_and_retrieved_text_have_their_own_classes_in_order():
    html = episode_viewer([view()])
    assert re.findall(r'class="span (\w+)"', html) == ["prompt", "model", "retrieved", "model"]
    assert "Ada | Ada Lovelace" in html and "\N{CHECK MARK} right" in html


def test_protocol_tags_are_shown_as_text():
    html = episode_viewer([view()])
    assert '<b class="tag">&lt;search&gt;</b>' in html and "<search>" not in html


@pytest.mark.parametrize("field", ["question_id", "set_name", "question", "prediction", "stop_reason"])
def test_a_script_in_a_field_is_shown_not_run(field):
    html = episode_viewer([view(**{field: SCRIPT})])
    assert "<script" not in html and html.count("<span") == html.count("</span>")


@pytest.mark.parametrize("source", ["prompt", "model", "retrieved"])
def test_a_script_in_a_span_is_shown_not_run(source):
    html = episode_viewer([view(spans=(Span(source=source, text=SCRIPT, num_tokens=9),), golden_answers=(SCRIPT,))])
    assert "<script" not in html and "&lt;script&gt;" in html


@pytest.mark.parametrize(
    ("prediction", "has_answer", "shown"),
    [
        pytest.param("", False, "(none)", id="never-answered"),
        pytest.param("", True, "(empty)", id="empty-answer"),
        pytest.param("Ada", True, "Ada", id="answer"),
    ],
)
def test_no_answer_and_an_empty_answer_are_told_apart(prediction, has_answer, shown):
    html = episode_viewer([view(prediction=prediction, has_answer=has_answer, em=0.0)])
    assert f'<dt>answer</dt><dd class="data">{shown}</dd>' in html and "\N{BALLOT X} wrong" in html


def test_only_the_first_episode_is_open():
    html = episode_viewer([view()] * 3)
    assert html.count('class="episode"') == 3 and html.count('<details open class="episode" id="episode-1"') == 1


def test_an_episode_carries_what_it_is_filtered_by():
    html = episode_viewer([view(), view(em=0.0, num_searches=2, set_name="my set", training_step=40, reward=0.5)])
    found = re.findall(r'data-source="(.*?)" data-set="(.*?)" data-result="(.*?)" data-searches="(.*?)"', html)
    assert found == [("evaluation", "nq", "right", "1"), ("training, step 40", "my set", "wrong", "2")]
    for name in ("evaluation", "training, step 40", "nq", "my set", "right", "wrong", "1", "2"):
        assert f'<option value="{name}">' in html
    assert "<dt>reward</dt>" in html and html.count("<dt>reward</dt>") == 1


def test_without_a_script_every_episode_is_there_and_no_control_is():
    html = episode_viewer([view()] * 30)
    assert html.count("<details") == 60 and "hidden" not in re.search(r'<details [^>]*class="episode"[^>]*>', html)[0]
    assert re.search(r'class="bar" hidden', html) and "<noscript>" in html


TOKENS = ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "", "\N{GRINNING FACE}", "\x00<", "/search>")


def test_numbers_of_tokens_stand_beside_their_text():
    span = Span(
        source="model", text="".join(TOKENS), num_tokens=5, tokens=TOKENS,
        logprobs=(-0.5, 0.0, -1.0, -2.0, -3.0), advantages=(1.5, -1.5, 0.0, 2.0, 0.25),
    )  # fmt: skip
    html = episode_viewer([view(spans=(span,))])
    # Lengths count UTF-16 units of what is shown, as a script does: the NUL is one replacement character.
    assert 'data-lengths="[4,0,2,2,8]"' in html
    assert 'data-logprobs="[-0.5,0.0,-1.0,-2.0,-3.0]"' in html and 'data-advantages="[1.5,-1.5,0.0,2.0,0.25]"' in html
    assert html.count("data-lengths") == 1


def test_a_page_too_big_to_forward_keeps_evenly_spaced_episodes_and_says_so():
    episodes = [view(question=f"question {i}") for i in range(40)]
    size = len(episode_viewer(episodes).encode())
    html = episode_viewer(episodes, max_bytes=size // 4)
    kept = [int(number) for number in re.findall(r">question (\d+)<", html)]
    assert 4 <= len(kept) <= 10 and f"{len(kept)} of 40 episodes: more would" in html
    assert kept[0] == 0 and kept[-1] > 25 and len(html.encode()) < size // 2
    assert "more would" not in episode_viewer(episodes)


def test_views_survive_json():
    assert EpisodeView.model_validate_json(view().model_dump_json()) == view()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.21, "4.2 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (59.99, "1 min 00 s"), (3599.9, "1 h 00 min")],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def test_lineage_shows_digest_inputs_and_hostile_names_as_text():
    made = ProducedBy(step="index", version="v" * 16, git_commit="c" * 40, config_sha256="f" * 64, seconds=12.0)
    entries = tuple(FileEntry(path=name, size=size, sha256="0" * 64) for name, size in (("a", 1200), ("b", 300)))
    manifest = Manifest(
        kind="index", uri=f"file:///{SCRIPT}", files=entries, digest="d" * 64, produced_by=made,
        inputs={"corpus": "e" * 64}, counts={"documents": 1200},
    )  # fmt: skip
    html = lineage_list([("index <b>", manifest)])
    assert "<script" not in html and "index &lt;b&gt;" in html
    assert f'title="{"d" * 64}"' in html and f"from corpus {'e' * 12}" in html
    assert "1,200 documents" in html and "2 files, 1.5 kB" in html
    assert f"code {'v' * 12}, commit {'c' * 12}, config {'f' * 12}" in html
