"""DAG step: question sets become validated training, development and test files."""
