"""The curve of a training at Weights & Biases, which is an extra."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Any

from gristmill.errors import ConfigurationError
from gristmill.pipelines.decode import Image

_ID_FILE = "wandb-id"


class WandbRun:
    """A run of a project. A training that goes on goes on in the same run."""

    def __init__(self, run: Any) -> None:
        self._run = run

    @classmethod
    def open(cls, project: str, folder: str, config: Mapping[str, object]) -> WandbRun:
        """Begin the run of the training in `folder`, or go on with it. `project`: its name, or
        ENTITY/PROJECT.

        Raises `ConfigurationError` where the package is not installed, or nobody is logged in.
        """
        try:
            import wandb
        except ImportError:
            raise ConfigurationError(
                f'--set wandb={project} needs wandb: pip install "gristmill[wandb]"'
            ) from None
        entity, _, name = project.rpartition("/")
        os.makedirs(folder, exist_ok=True)
        id_path = os.path.join(folder, _ID_FILE)
        if os.path.exists(id_path):
            with open(id_path, encoding="utf-8") as file:
                number = file.read().strip()
        else:
            number = secrets.token_hex(4)
        try:
            run = wandb.init(
                project=name,
                entity=entity or None,
                name=os.path.basename(os.path.abspath(folder)),
                id=number,
                resume="allow",
                dir=folder,
                config=dict(config),
                # Lines for a person are ours.
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.Error as error:
            raise ConfigurationError(
                f"--set wandb={project}: {error} Log in (`wandb login`, or WANDB_API_KEY), or set "
                "WANDB_MODE=offline and send it later by `wandb sync`"
            ) from error
        with open(id_path + ".partial", "w", encoding="utf-8") as file:
            file.write(number)
        os.replace(id_path + ".partial", id_path)
        return cls(run)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Quantities of a step. Of a step that was written before, and is done again, the first
        stay; they are the same."""
        self._run.log(dict(values), step=step)

    def samples(self, step: int, picture: Image) -> None:
        """A sheet of samples, uint8 RGB."""
        import wandb

        self._run.log({"samples": wandb.Image(picture)}, step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()
