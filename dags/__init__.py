"""Graphs of stages, the runners that execute them, and the recipes."""
