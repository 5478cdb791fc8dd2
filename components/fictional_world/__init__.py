"""The bundled world: invented entities, one document each, seven kinds of questions, and a tiny language for them.

Everything is drawn from a seed. Names are two invented words; the pairs are split once and for all into
training names and test names, so that a test entity can occur neither in pretraining nor in training.
"""
