"""DAG node: provides the untrained base model: the bundled tiny one, its recipe, a local folder or a hub model."""
