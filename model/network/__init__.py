"""The one transformer, and what it is made of."""
