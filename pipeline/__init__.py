"""The graph and nothing else: which steps there are, in which order, with which resources."""
