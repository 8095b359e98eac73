"""The little world of shapes: a leaf, which the model's core does not know."""
