"""The tokenizer survives a round trip through its files and takes any text; the model has the promised shape."""

import random
import unicodedata
from itertools import islice

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Tokenizer

from components.agent.config import LoopConfig
from components.base_model.transcripts import reading_row, walk_row
from components.fictional_world.questions import training_questions
from components.fictional_world.reading import readings, training_world, walks
from components.fictional_world.tiny_model import END, TAGS, build_model, build_tokenizer


@pytest.fixture(scope="module")
def built():
    return build_tokenizer(["\n\nsearch or answer.\n\n", "answer"])


@pytest.fixture(scope="module")
def reloaded(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    built.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def rows(built):
    rng = random.Random(0)
    world, loop = training_world(rng), LoopConfig()
    found = [reading_row(r, built) for r in islice(readings(world, 0.5, 2, rng), 60)]
    return found + [walk_row(w, loop, built) for w in islice(walks(world, training_questions(world, rng), rng), 60)]


def test_reloaded_tokenizer_is_the_same(built, reloaded, rows):
    assert isinstance(reloaded, Qwen2Tokenizer)
    assert len(reloaded) == len(built)
    assert reloaded.get_vocab() == built.get_vocab()
    assert (reloaded.eos_token, reloaded.pad_token, reloaded.chat_template) == (END, END, None)
    for row in rows:
        text = built.decode(row.token_ids)
        assert reloaded.encode(text, add_special_tokens=False) == built.encode(text, add_special_tokens=False)


def test_world_text_decodes_and_encodes_to_the_same_ids(reloaded, rows):
    for row in rows:
        assert reloaded.encode(reloaded.decode(row.token_ids), add_special_tokens=False) == row.token_ids


def test_world_text_takes_one_token_a_word(reloaded, rows):
    for row in rows:
        text = reloaded.decode(row.token_ids)
        assert len(row.token_ids) < 1.7 * len(text.split())


TEXTS = [
    pytest.param("Łódź, naïve, Ω, ß", id="latin"),
    pytest.param("東京 は 日本 の 首都", id="japanese"),
    pytest.param("\U0001f600\U0001f1e9\U0001f1ea\u200d", id="emoji"),
    pytest.param("a\x00b\x1f\x7f\u2028\ufeff", id="control-characters"),
    pytest.param("  two  blanks\t\r\n\n\n end ", id="white-space"),
    pytest.param("<search>kalo</search> </answer", id="tags"),
    pytest.param("kaloKALO kalo-mira Doc (Title: who", id="words-of-the-world-in-odd-places"),
    pytest.param("", id="nothing"),
]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives(text, reloaded):
    assert reloaded.decode(reloaded.encode(text, add_special_tokens=False)) == text


def test_random_unicode_survives(reloaded):
    rng = random.Random(0)
    for _ in range(200):
        letters = (chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])) for _ in range(20))
        text = "".join(letters)
        decoded = reloaded.decode(reloaded.encode(text, add_special_tokens=False))
        assert decoded == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("tag", TAGS)
def test_every_tag_is_one_token_and_no_special_one(tag, reloaded):
    assert len(reloaded.encode(tag, add_special_tokens=False)) == 1
    assert tag in reloaded.decode(reloaded.encode(f"a{tag}b", add_special_tokens=False), skip_special_tokens=True)


def test_end_is_the_only_special_token(reloaded):
    assert [t.content for t in reloaded.added_tokens_decoder.values() if t.special] == [END]


def model_of(tokenizer, width=96, layers=2):
    torch.manual_seed(0)
    return build_model(len(tokenizer), width, layers, 64, tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_heads_are_32_wide_and_files_open_with_transformers(built, tmp_path):
    model = model_of(built)
    config = model.config
    assert config.hidden_size // config.num_attention_heads == 32
    assert config.tie_word_embeddings
    model.save_pretrained(tmp_path)
    reopened = AutoModelForCausalLM.from_pretrained(tmp_path, use_safetensors=True)
    assert type(reopened).__name__ == "Qwen2ForCausalLM"
    ids = torch.tensor([built.encode("who is the director of the film", add_special_tokens=False)])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, reopened(ids).logits)


@pytest.mark.parametrize(("width", "layers", "copies"), [(96, 2, True), (128, 4, True), (64, 2, False), (96, 1, False)])
def test_planted_heads_copy(width, layers, copies, built):
    """After "a b ... a" an untrained model with planted heads says b; one without knows nothing."""
    model, generator = model_of(built, width, layers), torch.Generator().manual_seed(1)
    right = 0
    for _ in range(20):
        ids = 257 + torch.randperm(len(built) - 257, generator=generator)[:40]
        place = int(torch.randint(0, 30, (1,), generator=generator))
        with torch.no_grad():
            said = model(torch.cat([ids, ids[place : place + 1]])[None]).logits[0, -1].argmax()
        right += int(said == ids[place + 1])
    assert right >= 10 if copies else right <= 3
