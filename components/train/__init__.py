"""DAG node: teaches the base model to search by reinforcement learning with an outcome reward."""
