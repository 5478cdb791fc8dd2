"""Step: a version in MLflow's model registry for every checkpoint, and a gate before the alias `champion`."""
