"""The Dag of the drills on clusters: a file of the user's, as a job takes it along."""

from __future__ import annotations

from toy_stages import ToySlow

from gristmill.dags.graph import Dag, Node
from gristmill.dags.recipes.image_text import image_text
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.shards.shards import Shards
from gristmill.pipelines.sources.source import Source


def small(path: str) -> Dag:
    """Pictures read, scored slowly, kept, sharded: 10 a part."""
    nodes = {
        "source": Node(Source(path=path)),
        "download": Node(Download(image_size=32), ("source",)),
        "slow": Node(ToySlow(seconds=0.3), ("download",)),
        "keep": Node(Keep(rules={"odd": "slowly < 17"}), ("slow",)),
        "shards": Node(Shards(samples_per_shard=20, val_share=0.0), ("keep",)),
    }
    return Dag(name="drill", nodes=nodes, part_rows=10)


def whole(path: str) -> Dag:
    """The recipe image-text but for CLIP's weights, 50 rows a part, with a slow node beside."""
    dag = image_text(path=path).without("clip")
    rows = dag.without_idle().row_node("keep")
    nodes = {**dag.nodes, "slow": Node(ToySlow(seconds=0.2), (rows,))}
    keep = nodes["keep"]
    nodes["keep"] = Node(keep.stage, (*keep.inputs, "slow"))
    return Dag(name="drill", nodes=nodes, part_rows=50)
