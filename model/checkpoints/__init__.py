"""What is written of a model, and read again."""
