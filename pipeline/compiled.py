"""The DAG as Kubeflow Pipelines reads it."""

from pathlib import Path

from pipeline.parameters import PARAMETERS


def compile_pipeline(output: Path, image: str = "") -> None:
    """Write the pipeline to `output` as KFP YAML; equal code and image give equal bytes.

    Every step runs in `image`, which holds this project (images/cpu); without one the steps keep a bare Python,
    in which they cannot run. Help texts and choices join the parameters here: the SDK's signature has no room for them.
    """
    from kfp import compiler

    from pipeline.dag import search_r1

    inputs = search_r1.pipeline_spec.root.input_definitions.parameters
    for parameter in PARAMETERS:
        declared = inputs[parameter.name]
        declared.description = parameter.help
        declared.ClearField("literals")
        for choice in parameter.choices:
            declared.literals.add().string_value = choice
    executors = search_r1.pipeline_spec.deployment_spec["executors"]
    given = {name: executor["container"]["image"] for name, executor in executors.items()}
    for executor in executors.values():
        executor["container"]["image"] = image or executor["container"]["image"]
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        compiler.Compiler().compile(search_r1, str(output))
    finally:
        # The pipeline is one object of this process: the next caller may want other images.
        for name, executor in executors.items():
            executor["container"]["image"] = given[name]
