import pytest

from components.contracts.errors import ConfigError
from components.evaluate.chunks import Rank, cut, launched_rank, share_of


@pytest.mark.parametrize(
    ("num_questions", "max_questions", "sizes"),
    [
        pytest.param(10, 10, [10], id="one"),
        pytest.param(11, 10, [5, 6], id="no-crumb-at-the-end"),
        pytest.param(7, 3, [2, 2, 3], id="equal-to-one-question"),
        pytest.param(1, 512, [1], id="single-question"),
    ],
)
def test_chunks_are_few_and_of_equal_size(num_questions, max_questions, sizes):
    chunks = cut("rag", num_questions, max_questions)
    assert [chunk.stop - chunk.start for chunk in chunks] == sizes
    assert [n for chunk in chunks for n in range(chunk.start, chunk.stop)] == list(range(num_questions))


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_shares_are_disjoint_balanced_and_whole(world):
    chunks = [chunk for method in ("base", "rag") for chunk in cut(method, 51_713, 512)]
    shares = [share_of(Rank(number, world), chunks) for number in range(world)]
    assert sorted(map(repr, (chunk for share in shares for chunk in share))) == sorted(map(repr, chunks))
    asked = [sum(chunk.stop - chunk.start for chunk in share) for share in shares]
    assert max(asked) - min(asked) <= 512 + world


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        pytest.param({}, Rank(0, 1), id="no-launcher"),
        pytest.param({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3"}, Rank(3, 8), id="torchrun"),
    ],
)
def test_a_launcher_says_which_rank_this_is(environment, rank):
    assert launched_rank(environment) == rank


@pytest.mark.parametrize("given", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "first", "WORLD_SIZE": "2"}])
def test_an_impossible_rank_is_refused(given):
    with pytest.raises(ConfigError, match="torchrun"):
        launched_rank(given)
