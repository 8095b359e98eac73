"""The trainer: its settings, its steps, and what it leaves behind."""
