"""Before a run reads its source: whether the machines of its workers have what its stages load."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from gristmill.dags.engine.cut_record import parts_done
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.graph import Dag
from gristmill.errors import GristmillError, MissingWeightsError
from gristmill.pipelines.stage import Stage


@dataclass(frozen=True)
class WeightsCheck:
    """Looks for the files and weights of some nodes, on the machine where it is called."""

    dag: Dag
    nodes: tuple[str, ...]

    def __call__(self) -> str:
        """What is missing, in words; empty if nothing is."""
        for node in self.nodes:
            stage = self.dag.stage(node)
            try:
                for path in stage.files():
                    if not os.path.exists(path):
                        raise MissingWeightsError(
                            f"{path} does not exist on {socket.gethostname()}; put it where every "
                            "machine of the cluster finds it"
                        )
                stage.check_weights()
            except GristmillError as error:
                return self.dag.explain(node, error)
        return ""


def unfinished_loaders(layout: RunLayout, *, again: bool = False) -> tuple[str, ...]:
    """Nodes that load weights or files and have work to do; `again`: all that load some."""
    nodes = [node for node in layout.dag.order() if _loads(layout.dag.stage(node))]
    parts = None if again else parts_done(layout)
    if parts is None:
        return tuple(nodes)
    return tuple(node for node in nodes if len(layout.store(node).parts()) < parts)


def _loads(stage: Stage) -> bool:
    """Whether a stage loads anything."""
    return type(stage).check_weights is not Stage.check_weights or bool(stage.files())
