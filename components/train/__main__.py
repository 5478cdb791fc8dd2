"""`python -m components.train`."""

from components.train.main import step

step.main()
