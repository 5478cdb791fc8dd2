"""Packed rows hold every token once and let no episode see another."""

import itertools
import random

import pytest
import torch
from transformers import CodeGenConfig, CodeGenForCausalLM

from components.train import attention
from components.train.model import Critic, token_logprobs
from components.train.packing import ATTENTION_EQUALS_REST_TOKENS, EpisodeTokens, pack


def invented(count=23, longest=20, seed=0) -> list[EpisodeTokens]:
    rng = random.Random(seed)
    sequences = []
    for number in range(count):
        length = rng.randint(2, longest)
        ids = [100 * number + position for position in range(length)]
        trained = sorted(rng.sample(range(1, length), rng.randint(0, length - 1)))
        sequences.append(EpisodeTokens(ids, trained))
    return sequences


LAYOUTS = [(16, 1), (16, 3), (32, 4), (64, 100), (500, 2)]


@pytest.mark.parametrize(("row_tokens", "rows_per_batch"), LAYOUTS)
def test_every_token_is_there_exactly_once(row_tokens, rows_per_batch):
    sequences = invented()
    batches = pack(sequences, row_tokens, rows_per_batch, pad_id=-7, device="cpu")
    found = []
    for batch in batches:
        assert batch.ids_RT.shape[0] <= rows_per_batch
        for ids, segments, positions in zip(batch.ids_RT, batch.segments_RT, batch.positions_RT, strict=True):
            assert ((segments == -1) == (ids == -7)).all()
            for segment in range(int(segments.max()) + 1):
                chosen = segments == segment
                assert positions[chosen].tolist() == list(range(int(chosen.sum())))
                found.append(ids[chosen].tolist())
    assert sorted(found) == sorted(sequence.token_ids for sequence in sequences)


@pytest.mark.parametrize(("row_tokens", "rows_per_batch"), LAYOUTS)
def test_every_trained_token_is_predicted_once_from_the_token_before(row_tokens, rows_per_batch):
    sequences = invented()
    expected = [sequence.token_ids[p] for sequence in sequences for p in sequence.trained_positions]
    flat: dict[int, int] = {}
    for batch in pack(sequences, row_tokens, rows_per_batch, pad_id=0, device="cpu"):
        before = batch.ids_RT[batch.row_M, batch.column_M]
        assert (batch.targets_M == before + 1).all()
        for order, target in zip(batch.order_M.tolist(), batch.targets_M.tolist(), strict=True):
            assert order not in flat
            flat[order] = target
    assert [flat[i] for i in range(len(expected))] == expected


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_rows_keep_to_their_length_unless_an_episode_is_longer(world_size):
    sequences = [*invented(longest=16), EpisodeTokens(list(range(50)), [1])]
    widths = sorted(
        int((segments >= 0).sum())
        for rank in range(world_size)
        for batch in pack(sequences, 16, 4, pad_id=0, device="cpu", rank=rank, world_size=world_size)
        for segments in batch.segments_RT
    )
    assert sum(widths) == sum(len(sequence.token_ids) for sequence in sequences)
    assert widths[-1] == 50
    assert widths[-2] <= 16


def test_rows_are_filled():
    sequences = invented(count=200)
    batches = pack(sequences, 64, 8, pad_id=0, device="cpu")
    cells = sum(batch.ids_RT.numel() for batch in batches)
    assert sum(len(sequence.token_ids) for sequence in sequences) / cells > 0.9


def test_ranks_share_attention_and_not_only_tokens():
    """A token of the long episode costs twice as much as others: its rank gets none of the short ones."""
    sequences = [EpisodeTokens([1] * ATTENTION_EQUALS_REST_TOKENS, [])]
    sequences += [EpisodeTokens([1] * 1024, []) for _ in range(63)]
    shares = [pack(sequences, 70_000, 1, pad_id=0, device="cpu", rank=rank, world_size=2) for rank in range(2)]
    held = sorted(int((batch.segments_RT >= 0).sum()) // 1024 for share in shares for batch in share)
    assert held == [32, 63]


@pytest.mark.parametrize("world_size", [1, 2])
def test_rows_of_like_length_share_a_batch(world_size):
    """A batch is as wide as its longest row: the widest rows go first, on all ranks at a time."""
    sequences = invented(count=60, longest=60)
    for rank in range(world_size):
        batches = pack(sequences, 64, 2, pad_id=0, device="cpu", rank=rank, world_size=world_size)
        widths = [int((segments >= 0).sum()) for batch in batches for segments in batch.segments_RT]
        assert widths == sorted(widths, reverse=True)


def test_equal_input_gives_equal_rows():
    first, second = (pack(invented(), 32, 4, pad_id=0, device="cpu") for _ in range(2))
    assert all(torch.equal(a.ids_RT, b.ids_RT) for a, b in zip(first, second, strict=True))


@pytest.fixture(params=[pytest.param(10_000, id="dense mask"), pytest.param(0, id="segments")])
def kind_of_attention(request, monkeypatch):
    """Narrow rows take a dense mask and wide ones go segment by segment; here both meet the same rows."""
    monkeypatch.setattr(attention, "DENSE_MASK_TOKENS", request.param)


@pytest.mark.usefixtures("kind_of_attention")
@pytest.mark.parametrize(("row_tokens", "rows_per_batch"), LAYOUTS)
def test_packing_changes_no_logprob(row_tokens, rows_per_batch, policy, make_experience):
    sequences = make_experience(9).sequences
    packed = torch.zeros(sum(len(sequence.trained_positions) for sequence in sequences))
    with torch.no_grad():
        for batch in pack(sequences, row_tokens, rows_per_batch, pad_id=0, device="cpu"):
            packed[batch.order_M] = token_logprobs(policy, batch, 0.7)[0]
        alone = [
            (policy(torch.tensor([s.token_ids])).logits[0] / 0.7).log_softmax(-1)[p - 1, s.token_ids[p]]
            for s in sequences
            for p in s.trained_positions
        ]
    assert torch.allclose(packed, torch.stack(alone), atol=1e-5)


@pytest.mark.usefixtures("kind_of_attention")
def test_no_episode_sees_its_neighbour(policy, make_experience):
    """Another text in one episode changes no number of the others in its row."""
    sequences = make_experience(4).sequences
    with torch.no_grad():
        (before,) = pack(sequences, 500, 1, pad_id=0, device="cpu")
        logprobs = token_logprobs(policy, before, 1.0)[0]
        sequences[2] = EpisodeTokens([(t + 1) % 23 for t in sequences[2].token_ids], sequences[2].trained_positions)
        (after,) = pack(sequences, 500, 1, pad_id=0, device="cpu")
        changed = token_logprobs(policy, after, 1.0)[0] != logprobs
    starts = [len(s.trained_positions) for s in sequences]
    third = (before.order_M >= sum(starts[:2])) & (before.order_M < sum(starts[:3]))
    assert torch.equal(before.order_M, after.order_M)
    assert changed[third].all()
    assert not changed[~third].any()


@pytest.mark.usefixtures("kind_of_attention")
def test_packing_changes_no_value_of_a_model_without_segments():
    """Attention of some families cannot be replaced: their rows have the dense mask, however wide they are."""
    shape = {"n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "initializer_range": 0.2}
    torch.manual_seed(0)
    config = CodeGenConfig(vocab_size=2300, bos_token_id=0, eos_token_id=0, **shape)
    critic = Critic(CodeGenForCausalLM(config).eval())
    torch.nn.init.normal_(critic.head.weight)
    sequences = [s for s in invented() if s.trained_positions]
    with torch.no_grad():
        (rows,) = pack(sequences, 128, 100, pad_id=0, device="cpu")
        packed = torch.zeros(len(rows.order_M))
        packed[rows.order_M] = critic(rows)
        alone = torch.cat([critic(pack([sequence], 16, 1, pad_id=0, device="cpu")[0]) for sequence in sequences])
    assert alone.std() > 0.1
    assert torch.allclose(packed, alone, atol=1e-4)


def test_a_model_trained_on_segments_still_reads_plain_text(policy, make_experience, monkeypatch):
    """The engine samples from the module that is trained: choosing the attention must not change its own."""
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    with torch.no_grad():
        before = policy(ids).logits
        monkeypatch.setattr(attention, "DENSE_MASK_TOKENS", 0)
        token_logprobs(policy, pack(make_experience(3).sequences, 64, 1, pad_id=0, device="cpu")[0], 1.0)
        assert torch.equal(policy(ids).logits, before)


@pytest.mark.parametrize(("row_tokens", "rows_per_batch"), LAYOUTS)
def test_segments_cover_every_cell_once(row_tokens, rows_per_batch):
    for batch in pack(invented(), row_tokens, rows_per_batch, pad_id=0, device="cpu"):
        line = batch.segments_RT.flatten() + 100 * torch.arange(len(batch.ids_RT)).repeat_interleave(
            batch.ids_RT.shape[1]
        )
        changes = [0, *(torch.nonzero(line.diff()).flatten() + 1).tolist(), line.numel()]
        assert batch.segment_starts.tolist() == changes
        assert batch.longest_segment == max(b - a for a, b in itertools.pairwise(changes))


def test_a_rank_without_a_sequence_makes_its_pass_all_the_same(policy):
    """Five long episodes are six rows on two ranks: one of them holds padding alone."""
    sequences = [EpisodeTokens(list(range(5, 21)), [3, 9]) for _ in range(5)]
    shares = [pack(sequences, 16, 1, 0, "cpu", rank=rank, world_size=2) for rank in range(2)]
    assert [len(share) for share in shares] == [3, 3]
    (padding,) = [batch for share in shares for batch in share if not batch.targets_M.numel()]
    logprobs_M, entropy_M = token_logprobs(policy, padding, 1.0)
    assert logprobs_M.shape == entropy_M.shape == (0,)
    (logprobs_M.sum() + entropy_M.sum()).backward()
    assert all(p.grad is None or not p.grad.any() for p in policy.parameters())
