"""What can be said on the command line: flags that several commands share, and the parsers of the local ones."""

import argparse
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.contracts.errors import ConfigError
from pipeline import parameters


def add_fields(parser: argparse.ArgumentParser) -> None:
    """Add the fields of a run, as `fields_of` reads them, but for the place where it stores things."""
    parser.add_argument("--preset", default=parameters.PRESET.default, help=parameters.PRESET.help)
    add_overrides(parser)
    parser.add_argument("--seed", type=int, default=parameters.SEED.default, help=parameters.SEED.help)
    parser.add_argument("--corpus-uri", default=parameters.CORPUS_URI.default, help=parameters.CORPUS_URI.help)
    parser.add_argument("--questions-uri", default=parameters.QUESTIONS_URI.default, help=parameters.QUESTIONS_URI.help)
    parser.add_argument("--base-model", default=parameters.BASE_MODEL.default, help=parameters.BASE_MODEL.help)
    parser.add_argument("--model-name", default=parameters.MODEL_NAME.default, help=parameters.MODEL_NAME.help)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add `--set STEP.KEY=VALUE`."""
    parser.add_argument("--set", action="append", default=[], metavar="STEP.KEY=VALUE", help="override one setting")


def fields_of(given: argparse.Namespace, storage_root: str) -> dict[str, str | int]:
    """Return the fields of a run by the names that the resolve step and `Parameter.short_name` use."""
    return {
        "preset": given.preset,
        "corpus_uri": given.corpus_uri,
        "questions_uri": given.questions_uri,
        "base_model": given.base_model,
        "model_name": given.model_name,
        "seed": given.seed,
        "storage_root": storage_root,
        "overrides": "\n".join(given.set),
    }


def run_name(preset: str) -> str:
    """Return a name for a run that starts now: the preset and the second, in UTC."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    return f"{re.sub('[^A-Za-z0-9._-]+', '-', Path(preset).name.removesuffix('.toml'))}-{moment}Z"


def add_images(parser: argparse.ArgumentParser) -> None:
    """Add what a compiled pipeline is made with, as `images_of` reads it."""
    parser.add_argument("--image", default="", metavar="REFERENCE", help="image of every step (images/cpu)")
    parser.add_argument("--gpu-image", default="", metavar="REFERENCE", help="image of steps with GPUs (images/gpu)")
    parser.add_argument(
        "--gpus", action="append", default=[], metavar="TASK=N", help="GPUs of a task's own pod, such as train=8"
    )
    parser.add_argument("--cache-claim", default="", metavar="NAME", help="volume claim that keeps steps' downloads")


def images_of(given: argparse.Namespace) -> dict[str, Any]:
    """Return those arguments of `compile_pipeline` that were given.

    Raises:
        ConfigError: `--gpus` is not TASK=N.
    """
    gpus: Mapping[str, int] = dict(_gpus(text) for text in given.gpus)
    asked = {"image": given.image, "gpu_image": given.gpu_image, "gpus": gpus, "cache_claim": given.cache_claim}
    return {name: value for name, value in asked.items() if value}


def _gpus(text: str) -> tuple[str, int]:
    task, _, number = text.partition("=")
    if not task or not re.fullmatch("[0-9]{1,2}", number):
        raise ConfigError(f"--gpus {text}", "TASK=N, for example train=8")
    return task, int(number)


def run_parser(commands: Any) -> argparse.ArgumentParser:
    """Add and return the parser of `run`."""
    run = commands.add_parser("run", help="run the whole pipeline on this machine")
    add_fields(run)
    run.add_argument(
        "--runs-dir", type=Path, default=Path("runs"), help="folder of results, data and logs (%(default)s)"
    )
    run.add_argument(
        "--storage-root", default="", help="file:///folder or s3://bucket/prefix instead of the runs folder"
    )
    run.add_argument("--only-new-corpus", action="store_true", help="end at once when the champion knows this corpus")
    run.add_argument("--no-cache", action="store_true", help="run every step again")
    run.add_argument("--print-config", action="store_true", help="print the settings of every step and stop")
    return run


def compile_parser(commands: Any) -> argparse.ArgumentParser:
    """Add and return the parser of `compile`."""
    compile_ = commands.add_parser("compile", help="write the pipeline as YAML for Kubeflow Pipelines")
    compile_.add_argument("--output", type=Path, default=Path("build/search-r1.yaml"), help="file (%(default)s)")
    add_images(compile_)
    return compile_


def lineage_parser(commands: Any) -> argparse.ArgumentParser:
    """Add and return the parser of `lineage`."""
    lineage = commands.add_parser("lineage", help="print what a run or a manifest was made from")
    lineage.add_argument("what", help="run id, 'latest', or the path of a manifest.json")
    lineage.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of results (%(default)s)")
    return lineage


def report_parser(commands: Any) -> argparse.ArgumentParser:
    """Add and return the parser of `report`."""
    report = commands.add_parser("report", help="make the report of a run again, from what the run stored")
    report.add_argument("what", help="run id, 'latest', or the path or URI of an evaluation's manifest.json")
    report.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of results (%(default)s)")
    report.add_argument(
        "--output", type=Path, help="file to write; else the run's report.html, for a manifest ./report.html"
    )
    return report


def evaluate_parser(commands: Any) -> argparse.ArgumentParser:
    """Add and return the parser of `evaluate`."""
    evaluate = commands.add_parser(
        "evaluate",
        help="score a model and the baselines on every question set",
        description="Finished answers are kept: the same command again asks only what is missing.",
    )
    models = "run id, latest, manifest.json of a checkpoint, models:/name@alias, Hugging Face folder or hf://owner/name"
    evaluate.add_argument("--model", default="latest", help=f"{models} (%(default)s)")
    evaluate.add_argument("--methods", default="all", metavar="A,B,C", help="rows of the table (%(default)s possible)")
    evaluate.add_argument("--questions", default="", metavar="URI", help="folder of question files instead of its own")
    evaluate.add_argument("--corpus", default="", metavar="URI", help="corpus to search instead of its own")
    evaluate.add_argument("--index", default="", metavar="FILE", help="manifest.json of an index to search instead")
    evaluate.add_argument("--base-model", default="", metavar="MODEL", help="untrained model of the other rows")
    evaluate.add_argument("--max-questions-per-set", type=int, metavar="N", help="cut larger sets, always alike")
    evaluate.add_argument("--ranks", type=int, metavar="N", help="processes that share the questions")
    evaluate.add_argument("--preset", default="", help="settings (those of the model's run, else small-world)")
    add_overrides(evaluate)
    evaluate.add_argument("--output", type=Path, help="folder of the results (below the folder of runs)")
    evaluate.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of runs and data (%(default)s)")
    return evaluate


def inspect_data_parser(commands: Any) -> argparse.ArgumentParser:
    """Add and return the parser of `inspect-data`."""
    inspect = commands.add_parser("inspect-data", help="measure a corpus and its questions before training on them")
    inspect.add_argument("--questions", required=True, metavar="URI", help="folder of question files")
    inspect.add_argument("--corpus", required=True, metavar="URI", help="corpus file or folder")
    add_overrides(inspect)
    inspect.add_argument(
        "--output", type=Path, default=Path("runs/inspect-data"), help="folder of the page and the JSON (%(default)s)"
    )
    return inspect


def plan_parser(commands: Any) -> argparse.ArgumentParser:
    """Add and return the parser of `plan`."""
    plan = commands.add_parser("plan", help="tell whether a training fits its GPUs, and what it will take")
    plan.add_argument("preset", help="a .toml file, or MODEL-ALGORITHM-MACHINE as listed in docs/guides/presets.md")
    plan.add_argument("--gpu", default="h100", help="h100, h200, a100-80, ... (%(default)s)")
    plan.add_argument("--gpu-memory-gib", type=float, help="memory of a GPU, instead of the data sheet's")
    plan.add_argument("--tflops", type=float, help="peak of matrix products, instead of the data sheet's")
    plan.add_argument("--bandwidth", type=float, metavar="TB_PER_S", help="of GPU memory, instead of the data sheet's")
    plan.add_argument("--model-config", type=Path, help="config.json of a model that is not in the table")
    add_overrides(plan)
    plan.add_argument("--expect", action="append", default=[], metavar="KEY=VALUE", help="change an assumption")
    plan.add_argument("--json", action="store_true", help="print numbers for programs")
    return plan
