"""The report as a reader opens it: from a file, offline, in a real browser, with hostile text in every place."""

from collections.abc import Callable

import pytest

from components.contracts.manifest import FileEntry, Manifest, ProducedBy
from components.contracts.question import SEVEN_SETS
from components.evaluate.asked import Asked
from components.evaluate.assessment import Bootstrap, Evaluation
from components.evaluate.contrasts import contrast
from components.evaluate.cost import answer_cost
from components.evaluate.evaluation_page import evaluation_page
from components.evaluate.methods import METHODS
from components.evaluate.predictions import Prediction
from components.evaluate.scores import compare, score_average, score_sets
from components.report.episodes import EpisodeView
from components.report.spans import Span

pytestmark = pytest.mark.browser

ATTACKS = (
    "<script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 1'>",
    "</span></details></section><script>window.ran = 1</script>",
    "</script><script>window.ran = 1</script><!--",
    "\"><svg onload=window.ran=1>' onclick='window.ran=1",
    "javascript:window.ran=1 \u2028 \u2029 \u202e &lt;script&gt; {{7*7}} ${window.ran = 1} ]]>",
    "<style>*{display:none}</style><meta http-equiv=refresh content='0;url=https://example.org'>",
    "x" * 300 + "<iframe srcdoc='<script>top.ran = 1</script>'>",
)
NUM_QUESTIONS = 12
MADE = ProducedBy(step="train", version="v" * 16, git_commit="c" * 40, config_sha256="f" * 64, seconds=331.2)


def attack(number: int) -> str:
    return f"{number} {ATTACKS[number % len(ATTACKS)]}"


def prediction(method: str, set_name: str, number: int) -> Prediction:
    share = (list(METHODS).index(method) + 2) / (len(METHODS) + 4)
    is_right = float((number * 7 + len(set_name)) % NUM_QUESTIONS < NUM_QUESTIONS * (1 - share))
    return Prediction(
        method=method, set_name=set_name, question_id=f"{set_name}:{number}", question=attack(number),
        golden_answers=(attack(number + 1), "Ada"), prediction=attack(number + 2), em=is_right, f1=is_right,
        num_searches=number % 4, valid_action_frac=1.0, finished=number % 5 > 0, latency_s=0.25, num_model_tokens=40,
        stop_reason="answered", search_error="",
    )  # fmt: skip


def model_span(text: str, with_advantages: bool) -> Span:
    tokens = tuple(text[i : i + 3] for i in range(0, len(text), 3))
    logprobs = tuple(-0.02 * i * i for i in range(len(tokens)))
    advantages = tuple((i % 7 - 3) * 0.75 for i in range(len(tokens))) if with_advantages else ()
    return Span(
        source="model", text=text, num_tokens=len(tokens), tokens=tokens, logprobs=logprobs, advantages=advantages
    )


def view(number: int, set_name: str, step: int | None = None) -> EpisodeView:
    return EpisodeView(
        question_id=f"{set_name}:{number}", set_name=set_name, question=attack(number), golden_answers=(attack(3),),
        prediction=attack(number + 2), has_answer=True, em=float(number % 2), num_searches=number % 3,
        stop_reason="answered", training_step=step, reward=None if step is None else float(number % 2),
        spans=(
            Span(source="prompt", text=attack(number), num_tokens=9),
            model_span(f"<search> {attack(number)}</search>", step is not None),
            Span(source="retrieved", text=f"<information>Doc 1 {attack(number + 4)}</information>", num_tokens=9),
            model_span(f"<answer>{attack(number + 2)}</answer>", step is not None),
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def page() -> str:
    rows = {
        method: [prediction(method, name, i) for name in (*SEVEN_SETS, "a custom set") for i in range(NUM_QUESTIONS)]
        for method in METHODS
    }
    ours = rows["search_r1"]
    others = {method: found for method, found in rows.items() if method != "search_r1"}
    facts = {"steps": 50, "tokens": 123456, "rl_s": 250.0}
    manifest = Manifest(
        kind="checkpoint", uri=f"file:///{ATTACKS[0]}", files=(FileEntry(path="a", size=1, sha256="0" * 64),),
        digest="d" * 64, produced_by=MADE, metadata=facts,
    )  # fmt: skip
    curve = {
        "kl/ref": 0.01,
        "em/dev": 0.01,
        "reward/mean": 0.02,
        "rollout/num_searches/mean": 0.03,
        "response/tokens/mean": 0.5,
    }
    evaluation = Evaluation(
        scores={method: score_sets(found, 0, 200) for method, found in rows.items()},
        averages={method: score_average(found, 0, 200) for method, found in rows.items()},
        differences={method: compare(ours, found, 0, 200) for method, found in others.items()},
        contrasts={method: contrast(ours, found, 3, 0) for method, found in others.items()},
        costs={method: answer_cost(found, 12.5) for method, found in rows.items()},
        bootstrap=Bootstrap(0, 200),
        asked={"nq": Asked(NUM_QUESTIONS, 3610, 4, NUM_QUESTIONS)},
        in_domain=frozenset({"nq", "hotpotqa"}),
        max_searches=4,
        episodes=[
            *(view(i, name) for name in SEVEN_SETS for i in range(4)),
            *(view(i, "nq", step) for step in (10, 20) for i in range(4)),
        ],
        training_metrics=[
            {"step": step, **{key: step * value for key, value in curve.items()}} for step in range(50)
        ],
        chosen_step=40,
        lineage=[("index", replace_kind(manifest)), ("checkpoint", manifest)],
    )  # fmt: skip
    return evaluation_page(evaluation)


def replace_kind(manifest: Manifest) -> Manifest:
    return manifest.model_copy(update={"kind": "index", "metadata": {}, "digest": "e" * 64})


@pytest.fixture
def opened(page, browser, tmp_path) -> Callable:
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")

    def open_page(width: int = 1200, scheme: str = "light"):
        browser.show(width, scheme=scheme)
        browser.open(path.as_uri())
        return browser

    return open_page


VISIBLE = "[...document.querySelectorAll('.episode')].filter((e) => !e.hidden)"


def choose(browser, name: str, value: str) -> None:
    browser.run(
        f"(() => {{ const s = document.querySelector('select[name={name}]'); s.value = {value!r};"
        " if (s.value === '' && " + repr(value) + ") throw Error('no such option');"
        " s.dispatchEvent(new Event('change')); })()"
    )


def shown(browser, key: str) -> list[str]:
    return browser.run(f"{VISIBLE}.map((e) => e.dataset.{key})")


def test_nothing_in_the_data_runs_and_nothing_is_asked_of_the_network(opened):
    browser = opened()
    browser.run("document.querySelectorAll('details').forEach((d) => { d.open = true; d.hidden = false; })")
    browser.run("document.querySelectorAll('.data, summary, td, th').forEach((e) => e.click())")
    browser.run("new Promise((done) => setTimeout(done, 200))")
    assert browser.run("window.ran") is None
    assert browser.run("document.scripts.length") == 1
    assert browser.run("document.querySelectorAll('img, iframe, object, link, .data style, .data meta').length") == 0
    assert browser.heard("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded") == []
    asked = [event["params"]["request"]["url"] for event in browser.heard("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith("file://")] == [] and len(asked) == 1
    assert browser.run("document.querySelector('.episode .question').textContent") == attack(0)


def test_the_page_allows_no_script_but_its_own(opened):
    browser = opened()
    browser.run("(() => { const s = document.createElement('script'); s.textContent = 'window.ran = 2';"
                " document.body.append(s); })()")  # fmt: skip
    assert browser.run("window.ran") is None


def test_filters_narrow_the_list_together_and_let_go(opened):
    browser = opened()
    assert browser.run("document.querySelector('.count').textContent") == "36 of 36 episodes"
    assert len(shown(browser, "set")) == 12
    choose(browser, "set", "musique")
    assert shown(browser, "set") == ["musique"] * 4
    choose(browser, "result", "right")
    assert shown(browser, "result") == ["right"] * 2
    choose(browser, "searches", "1")
    assert shown(browser, "searches") == ["1"]
    choose(browser, "source", "training, step 20")
    assert shown(browser, "set") == [] and browser.run("!document.querySelector('.none').hidden")
    choose(browser, "set", "")
    choose(browser, "result", "")
    choose(browser, "searches", "")
    assert shown(browser, "source") == ["training, step 20"] * 4
    choose(browser, "source", "training")
    assert shown(browser, "source") == ["training, step 10"] * 4 + ["training, step 20"] * 4


def test_more_episodes_and_the_next_one_can_be_asked_for(opened):
    browser = opened()
    browser.run("document.querySelector('.more').click()")
    assert len(shown(browser, "set")) == 24
    choose(browser, "source", "training, step 10")
    for _ in range(2):
        browser.run("document.querySelector('.next').click()")
    assert browser.run(f"{VISIBLE}.map((e) => e.open)") == [False, True, False, False]
    browser.run("document.querySelector('.previous').click()")
    assert browser.run(f"{VISIBLE}.map((e) => e.open)") == [True, False, False, False]


@pytest.mark.parametrize(
    ("colour", "kinds", "source"),
    [
        pytest.param("logprob", {"p1", "p5"}, "evaluation", id="log-probabilities"),
        pytest.param("advantage", {"a2", "n2", "a4", "n4"}, "training, step 10", id="advantages"),
    ],
)
def test_tokens_take_the_colours_of_their_numbers_and_the_text_stays(opened, colour, kinds, source):
    browser = opened()
    choose(browser, "source", source)
    browser.run("document.querySelector('.next').click()")
    text = browser.run("document.querySelector('.episode[open] .transcript').textContent")
    browser.run(f"document.querySelector('input[value={colour}]').click()")
    assert browser.run("document.querySelector('.episode[open] .transcript').textContent") == text
    found = browser.run("[...document.querySelectorAll('.episode[open] .token')].map((t) => t.className)")
    assert kinds <= {name for names in found for name in names.split()}
    browser.run("document.querySelectorAll('.episode[open] .token')[3].click()")
    assert "probability 0.835" in browser.run("document.querySelector('.status').textContent")
    assert not browser.run(f"document.querySelector('.legend-of[data-of={colour}]').hidden")
    browser.run("document.querySelector('input[value=source]').click()")
    assert browser.run("document.querySelectorAll('.episode[open] .token').length") == 0
    assert browser.run("document.querySelector('.episode[open] .transcript').textContent") == text
    assert browser.heard("Runtime.exceptionThrown", "Log.entryAdded") == []


def test_an_episode_can_be_linked_to(opened):
    browser = opened()
    browser.run("location.hash = '#episode-30'")
    browser.run("new Promise((done) => setTimeout(done, 100))")
    assert browser.run("document.querySelector('#episode-30').open && !document.querySelector('#episode-30').hidden")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_never_scrolls_sideways(opened, scheme):
    browser = opened(390, scheme)
    browser.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert browser.run("document.documentElement.scrollWidth") == 390
    colours = browser.run("(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))")
    lightness = [sum(map(int, colour[4:-1].split(", "))) for colour in colours]
    assert (lightness[0] < lightness[1]) == (scheme == "light")


def test_without_javascript_every_episode_is_a_plain_list(page, browser, opened):
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        opened()
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)
    assert len(shown(browser, "set")) == 36
    assert browser.run("document.querySelector('.bar').hidden")
