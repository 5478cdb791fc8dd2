"""Which episodes a reader is shown: right and wrong ones in turn, from every set in turn."""

import random
from collections.abc import Sequence

from components.evaluate.predictions import Prediction


def choose_rows(rows: Sequence[Prediction], count: int, seed: int) -> list[Prediction]:
    """Return at most `count` rows, spread over sets and over right and wrong, sets in their order, right ones first.

    Sets take turns; a set gives a right row, then a wrong one, and so on, and the other kind where one
    has run out. Equal arguments give equal rows.
    """
    names = list(dict.fromkeys(row.set_name for row in rows))
    pools = {(name, is_right): [] for name in names for is_right in (True, False)}
    for row in rows:
        pools[row.set_name, row.em > 0].append(row)
    shuffle = random.Random(seed)
    for pool in pools.values():
        shuffle.shuffle(pool)
    chosen: list[Prediction] = []
    turn = 0
    while len(chosen) < min(count, len(rows)):
        # A set starts with the kind its neighbour did not start with, so that few turns show both.
        name, wants_right = names[turn % len(names)], (turn % len(names) + turn // len(names)) % 2 == 0
        pool = pools[name, wants_right] or pools[name, not wants_right]
        if pool:
            chosen.append(pool.pop())
        turn += 1
    return sorted(chosen, key=lambda row: (names.index(row.set_name), row.em <= 0, row.question_id))
