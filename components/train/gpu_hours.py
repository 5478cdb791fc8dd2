"""What a training took of GPUs, on the step's card and among its headline numbers."""

from dataclasses import replace

from components.contracts.step import StepResult


def with_gpu_hours(result: StepResult, gpu_s: float, usd_per_gpu_hour: float) -> StepResult:
    """Return `result` with `gpu_hours` of this attempt, and `cost_usd` where the price is known; CPUs count nothing."""
    if gpu_s <= 0:
        return result
    hours = gpu_s / 3600
    metrics = {"gpu_hours": round(hours, 4)}
    rows = f"| GPU-hours of this attempt | {hours:.2f} |\n"
    if usd_per_gpu_hour:
        metrics["cost_usd"] = round(hours * usd_per_gpu_hour, 2)
        rows += f"| cost of this attempt | ${hours * usd_per_gpu_hour:,.2f} |\n"
    return replace(result, card=result.card + rows, metrics=result.metrics | metrics)
