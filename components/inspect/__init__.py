"""Room beside the DAG: what a corpus and its questions are worth, before anyone spends GPU time on them."""
