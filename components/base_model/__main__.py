"""`python -m components.base_model`; `--set source=recipe://small-world` makes the bundled model again."""

from components.base_model.main import step

step.main()
