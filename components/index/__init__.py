"""DAG step: a corpus becomes a verified Pyserini index."""
