"""Gristmill: from lists of URLs to training shards for unified multimodal models.

The rooms of the project are reached as `gristmill.pipelines` (stages), `gristmill.dags` (graphs and
runners), `gristmill.model` (what trains on the shards) and `gristmill.catalogs` (dataset facts).
Nothing heavy is imported here, so that `import gristmill` costs nothing.
"""

__version__ = "0.1.0"
