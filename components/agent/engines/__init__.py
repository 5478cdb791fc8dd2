"""Inference engines behind one protocol; the only place of this package that imports torch or vllm."""
