"""Answers a job with the ranks there are: this process alone, processes started here, or those of a launcher."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from components.contracts.errors import SearchR1Error
from components.contracts.question import Question
from components.evaluate.chunks import Rank, launched_rank, share_of
from components.evaluate.job import Job
from components.evaluate.models import opener
from components.evaluate.progress import AnswerProgress
from components.evaluate.share import answer_share

_LOOK_EVERY_S = 0.2
_LONGEST_WAIT = timedelta(days=30)
"""Of a rank for the others at the end; a launcher notices earlier when one of them has died."""


class RankFailed(SearchR1Error, RuntimeError):
    """A process that shared the questions ended without an error of its own (killed, out of memory)."""


def answer_job(job: Job, questions: Sequence[Question]) -> None:
    """Return when every question of `job` is answered by all ranks; the answers lie where `job.answers_uri` says.

    Raises:
        RankFailed: a rank started here was killed; what it had finished is kept.
        SearchR1Error: whatever a rank failed with.
    """
    rank = launched_rank()
    if rank.world == 1 and job.config.ranks > 1:
        _start_ranks(job, len(questions))
        return
    total = sum(chunk.stop - chunk.start for chunk in share_of(rank, job.chunks(len(questions))))
    label = "evaluate" if rank.world == 1 else f"evaluate, rank {rank.number} of {rank.world}"
    with AnswerProgress(total, label) as progress:
        answer_share(
            job,
            rank,
            questions,
            opener(job, rank),
            lambda method, count, is_kept: progress.reuse(count) if is_kept else progress.advance(count, method),
        )
    if rank.world > 1:
        _meet()


def _meet() -> None:
    """Wait for the other ranks of the launcher."""
    import torch.distributed

    torch.distributed.init_process_group("gloo", timeout=_LONGEST_WAIT)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _start_ranks(job: Job, num_questions: int) -> None:
    # A fresh interpreter for each: neither Java nor CUDA survives a fork.
    context = multiprocessing.get_context("spawn")
    world = job.config.ranks
    counts, failures = context.RawArray("Q", 2 * world), context.SimpleQueue()
    ranks = [
        context.Process(target=_run_rank, args=(job, Rank(number, world), counts, failures), daemon=True)
        for number in range(world)
    ]
    try:
        for process in ranks:
            process.start()
        with AnswerProgress(num_questions * len(job.config.methods)) as progress:
            seen = [0, 0]
            while any(process.is_alive() for process in ranks) or seen != _totals(counts):
                time.sleep(_LOOK_EVERY_S)
                new, kept = (now - before for now, before in zip(_totals(counts), seen, strict=True))
                seen = [seen[0] + new, seen[1] + kept]
                progress.reuse(kept)
                progress.advance(new, f"{world} ranks")
                _check(ranks, failures)
            _check(ranks, failures)
    finally:
        for process in ranks:
            if process.pid:
                process.kill()
                process.join()


def _totals(counts: Any) -> list[int]:
    return [sum(counts[::2]), sum(counts[1::2])]


def _check(ranks: Sequence[Any], failures: Any) -> None:
    if not failures.empty():
        raise failures.get()
    for number, process in enumerate(ranks):
        if process.exitcode:
            how = f"signal {-process.exitcode}" if process.exitcode < 0 else f"exit code {process.exitcode}"
            raise RankFailed(
                f"Rank {number} of {len(ranks)} ended with {how}. What it had finished is kept.\n"
                "What to do: look for its message above, or for too little memory; then evaluate again."
            )


def _run_rank(job: Job, rank: Rank, counts: Any, failures: Any) -> None:
    """Answer a share in a process of its own: new answers are counted in `counts[2 rank]`, kept ones behind it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def on_answers(_method: str, count: int, is_kept: bool) -> None:
        counts[2 * rank.number + is_kept] += count

    try:
        answer_share(job, rank, job.read_questions(), opener(job, rank), on_answers)
    except SearchR1Error as error:
        failures.put(error)


def _end_with_parent() -> None:
    """End this process with the one that started it, however that ended: nobody would gather the answers."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
