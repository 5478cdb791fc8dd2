"""How fast one GPU trains and samples models of the paper's size: random weights, real length statistics, no downloads.

    python -m benchmarks.gpu --output benchmarks/results/gpu.json      (make bench-gpu)

Update: packed rows through forward, loss, backward and, where it fits, AdamW; MFU counts every FLOP of the model
once (arXiv 2204.02311, appendix B), against the GPU's dense bfloat16 peak. Decode: an engine with all slots busy,
against the memory roof. Step: rollout, scores, update, weights back to the engine and probed (`gpu_rollout.py`); with
vLLM where it is installed. `--toy` makes the same calls on a CPU with a model of two layers.
"""

import argparse
import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.gpu_models import (
    LARGE,
    MIDDLE,
    OFFLOADED,
    PLAIN,
    SMALL,
    TIGHT,
    TOY,
    WIDE,
    Model,
    drawn_episodes,
    experience_of,
    invented_targets,
    learner_of,
    random_model,
    synchronised,
    training_dtype,
)
from benchmarks.gpu_rollout import decode_cases, installed_engines, rollout_cases, sleep_cases, step_cases
from benchmarks.record import Case, alone, table, write_record
from components.train.config import ParallelConfig
from components.train.cost import ModelShape, forward_flops
from components.train.plan_time import Gpu
from components.train.ranks import joined
from components.train.throughput import gpus_named


def update_cases(model: Model, num_tokens: int, repeats: int, scale: float, peak_flops: float) -> list[Case]:
    """Return tokens/s, MFU and peak memory of updates on about `num_tokens` tokens."""
    learner = learner_of(model, random_model(model, training_dtype()))
    mean = 1200 * scale
    sequences = drawn_episodes(max(2, int(num_tokens / mean)), model.vocabulary, scale)
    experience = experience_of(sequences)
    count, targets = experience.num_tokens, invented_targets(experience)
    if not model.steps_optimizer:
        learner.optimizers = {}
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats + 1):
        seconds.append(synchronised(lambda: learner.update(experience, targets, 0)))
        learner.policy.zero_grad(set_to_none=True)
    del seconds[0]
    lengths = [len(s.token_ids) for s in sequences]
    shape = ModelShape.from_hf_config(model.hf_config().to_dict())
    flops = 3 * (forward_flops(shape, lengths, count) + model.critic * forward_flops(shape, lengths, 0))
    what = "AdamW" if model.steps_optimizer else "no optimizer"
    name = f"update, {model.label}, {what}"
    cases = [alone(name, [sum(lengths) / s for s in seconds], "tokens/s")]
    if peak_flops:
        cases.append(alone(f"{name}: MFU", [flops / s / peak_flops for s in seconds], "share of peak"))
        cases.append(alone(f"{name}: memory", [torch.cuda.max_memory_allocated() / 2**30], "GiB"))
    return cases


def profile(model: Model, num_tokens: int, scale: float) -> str:
    """Return where the time of an update goes, kernels by share."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profiled(activities=activities) as found:
        update_cases(model, num_tokens, 1, scale, 0.0)
    key = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    return found.key_averages().table(sort_by=key, row_limit=30, max_name_column_width=70)


def free() -> None:
    """Give the memory of the last case back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    """Run the cases and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gpu.json"))
    parser.add_argument("--toy", action="store_true", help="the same calls with a model of two layers, on a CPU too")
    parser.add_argument(
        "--only", default="", help="cases whose name contains this: update, decode, step, sleep, rollout, profile"
    )
    given = parser.parse_args()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    if not gpu and not given.toy:
        raise SystemExit("bench-gpu needs a GPU; --toy makes the same calls on a CPU")
    known = next(iter(gpus_named(gpu)), None)
    plan = toy_plan() if given.toy else full_plan(known)
    cases: list[Case] = []
    parallel = ParallelConfig(gpus_per_node=1 if gpu else 0)
    for name, work in plan:
        if given.only in name:
            # A group for each: closing vLLM ends the one it found.
            with joined(parallel):
                found = work()
            print(table(found), flush=True)
            cases += found
            free()
            # After every case: a machine lent by the minute may be gone before the last one.
            record(given.output, cases)
    if given.only in "profile":
        with joined(parallel):
            text = profile(TOY if given.toy else MIDDLE, 3000 if given.toy else 60_000, 0.1 if given.toy else 1.0)
        given.output.with_suffix(".profile.txt").write_text(text, encoding="utf-8")


def toy_plan() -> list[tuple[str, Callable[[], list[Case]]]]:
    """Return the cases for a CPU: (name, what to do)."""
    return [
        ("update", lambda: update_cases(TOY, 3000, 1, 0.1, 0.0)),
        ("decode", lambda: decode_cases("torch", TOY, 3, 20, 4, 0.0)),
        ("step", lambda: step_cases("torch", TOY, 3, 3, 0.05, 0.0, ahead_too=True)),
    ]


def full_plan(gpu: Gpu | None) -> list[tuple[str, Callable[[], list[Case]]]]:
    """Return the cases for a GPU of 141 GB: (name, what to do), the most telling ones first."""
    long, short = 130_000, 65_000
    updates = ((MIDDLE, long), (WIDE, long), (SMALL, long), (LARGE, short), (PLAIN, short), (TIGHT, short))
    updates += ((OFFLOADED, short),)
    peak_flops, bandwidth = (gpu.flops_per_s("bfloat16"), gpu.bandwidth_tb_per_s * 1e12) if gpu else (0.0, 0.0)
    critic = replace(SMALL, critic=True, row_tokens=8192)
    engines = installed_engines()
    # The torch engine takes minutes for as many episodes.
    best, count = engines[-1], 256 if "vllm" in engines else 32
    return [
        *(
            (f"update, {model.label}", lambda m=model, n=count: update_cases(m, n, 2, 1.0, peak_flops))
            for model, count in updates
        ),
        *((f"decode {e}", lambda e=e: decode_cases(e, SMALL, 256, 1200, 48, bandwidth)) for e in engines),
        ("step", lambda: step_cases(best, MIDDLE, count, count, 1.0, bandwidth)),
        ("step, one ahead", lambda: step_cases(best, SMALL, count, count, 1.0, bandwidth, ahead_too=True)),
        ("step, critic", lambda: step_cases(best, critic, count, count, 1.0, bandwidth)),
        *([("sleep", lambda: sleep_cases(50))] if "vllm" in engines else []),
        *([("rollout", lambda: rollout_cases(MIDDLE, count))] if "vllm" in engines else []),
    ]


def record(path: Path, cases: list[Case]) -> None:
    """Write what was measured so far."""
    mfu = [case.ours for case in cases if case.case.endswith("MFU") and "3B" in case.case]
    goal = {"MFU of updates at 3B on an H200": 0.4}
    write_record(
        path,
        command="make bench-gpu",
        cases=cases,
        goal=goal,
        met={name: bool(mfu) and max(mfu) >= limit for name, limit in goal.items()},
        notes=f"random weights; lengths as of Search-R1 runs; one GPU; torch {torch.__version__}",
    )


if __name__ == "__main__":
    main()
