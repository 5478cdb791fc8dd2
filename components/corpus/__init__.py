"""DAG step: any supported corpus source becomes one validated wiki-18 JSONL corpus."""
