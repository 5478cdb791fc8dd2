"""The DAG as Kubeflow Pipelines reads it."""

from pathlib import Path

from pipeline.parameters import PARAMETERS


def compile_pipeline(output: Path) -> None:
    """Write the pipeline to `output` as KFP YAML; equal code gives equal bytes.

    Help texts and choices join the parameters here: the SDK's signature has no room for them.
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
    output.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(search_r1, str(output))
