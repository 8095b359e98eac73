"""Scores of a model on data of anybody."""
