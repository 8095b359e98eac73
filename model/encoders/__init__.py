"""Semantic encoders: towers that see patches, in the training step, at any ratio."""
