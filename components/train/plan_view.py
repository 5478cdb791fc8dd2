"""A plan as text for a terminal."""

import textwrap

from components.train.plan_figures import Plan
from components.train.plan_memory import GIB, micro_batch_tokens, num_gpus


def render(plan: Plan, title: str) -> str:
    """Return the plan as aligned tables, with the assumptions it rests on."""
    parallel, gpu, per_engine = plan.config.parallel, plan.gpu, plan.config.ranks_per_engine
    dtype = parallel.compute_dtype
    head = (
        f"{title}: {plan.shape.num_parameters / 1e9:.2f} B parameters, {plan.config.algorithm}, "
        f"{parallel.num_nodes} x {parallel.gpus_per_node} {gpu.name}\n"
        f"({gpu.memory_gib} GiB, {gpu.flops_per_s(dtype) / 1e12:.0f} TFLOP/s in {dtype}, {gpu.bandwidth_tb_per_s} TB/s)"
    )
    if per_engine > 1:
        head += f"\n({num_gpus(plan.config) // per_engine} engines of {per_engine} GPUs each)"
    return "\n\n".join([head, _memory(plan), _tokens(plan), _time(plan), _assumptions(plan)])


def _memory(plan: Plan) -> str:
    notes = {
        "always": "",
        "update": "during the update",
        "passes": "during its passes",
        "optimizers": "after them",
        "rollout": "during the rollout",
    }
    rows = [["memory per GPU", "GiB", ""]]
    rows += [
        [part.name, f"{part.num_bytes / GIB:.1f}", "in host memory" if part.on_host else notes[part.when]]
        for part in plan.parts
    ]
    left = plan.gpu.memory_gib - plan.peak_bytes / GIB
    rows.append(
        ["peak", f"{plan.peak_bytes / GIB:.1f}", f"fits, {left:.1f} left" if left >= 0 else f"{-left:.1f} too much"]
    )
    launch = plan.config.launch
    given = f"a pod gets {launch.memory} (train.launch.memory)"
    limit = given if launch.backend == "trainjob" else "it has to have that"
    rows.append(["host memory per node", f"{plan.host_bytes_per_node / GIB:.0f}", limit])
    rows.append(["checkpoint", f"{plan.checkpoint_bytes / GIB:.0f}", "in storage, at most 4 of them at a time"])
    return _table(rows)


def _tokens(plan: Plan) -> str:
    episodes, expected, longest = plan.num_episodes, plan.expected, plan.longest
    micro = micro_batch_tokens(plan.config) * num_gpus(plan.config)
    return _table(
        [
            ["per step", "expected", "at most"],
            ["episodes", f"{episodes:,}", f"{episodes:,}"],
            ["tokens of an episode", f"{expected.tokens:,.0f}", f"{longest.tokens:,.0f}"],
            ["tokens", f"{episodes * expected.tokens:,.0f}", f"{episodes * longest.tokens:,.0f}"],
            ["trained tokens", f"{episodes * expected.model_tokens:,.0f}", f"{episodes * longest.model_tokens:,.0f}"],
            [
                "micro-batches of a GPU",
                f"{episodes * expected.tokens / micro:,.1f}",
                f"{episodes * longest.tokens / micro:,.1f}",
            ],
        ]
    )


def _time(plan: Plan) -> str:
    rows = [["time of a step", "PFLOP", "s", "share"]]
    for phase in plan.phases:
        flops = f"{phase.flops / 1e15:,.1f}" if phase.flops else ""
        rows.append([phase.name, flops, f"{phase.seconds:,.1f}", f"{phase.seconds / plan.step_s:.0%}"])
    total = sum(phase.flops for phase in plan.phases)
    rows.append(["step", f"{total / 1e15:,.1f}", f"{plan.step_s:,.1f}", ""])
    rows.append(["step of longest episodes", "", f"{plan.longest_step_s:,.1f}", ""])
    steps, evaluations = plan.config.steps, plan.num_dev_evaluations
    run = (
        f"run: {steps} steps and {evaluations} dev evaluations of {plan.dev_s:.1f} s: {plan.run_hours:.1f} h, "
        f"{plan.run_hours * num_gpus(plan.config):,.0f} GPU-hours"
    )
    if plan.config.parallel.num_nodes > 1:
        busy_s = sum(phase.seconds for phase in plan.phases if not phase.name.startswith("rollout"))
        run += (
            f"\nnetwork: {plan.network_gb_per_node:,.0f} GB per node and step, hidden behind the computation "
            f"from {plan.network_gb_per_node / busy_s:.1f} GB/s per node"
        )
    return f"{_table(rows)}\n{run}"


def _assumptions(plan: Plan) -> str:
    given = ", ".join(f"{name}={value:g}" for name, value in plan.assumed.model_dump().items())
    text = (
        f"Assumed (change with --expect): {given}. On an H200 vLLM reached a decode_roof_frac of 0.1 "
        "over a rollout, the torch engine 0.03. Not counted: waiting for searches and stragglers, what GPUs of one "
        "engine tell each other, checkpoints, loading; the other trainings and the final evaluation of a pipeline run."
    )
    return textwrap.fill(text, 110, break_on_hyphens=False)


def _table(rows: list[list[str]]) -> str:
    """Return aligned columns: names to the left, numbers to the right, a last column of words to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    wordy = not any(row[-1][:1].isdigit() for row in rows)
    sides = ["<", *">" * (len(widths) - 2), "<" if wordy else ">"]
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    )
