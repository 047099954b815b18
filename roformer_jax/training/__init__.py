"""Pytrees, functions and iterators in; a trained state, checkpoints and metrics out. Knows no model and no data set."""
