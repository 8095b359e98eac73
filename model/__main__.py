"""`python -m gristmill.model base ...` is `gristmill train base ...`, for torchrun, and
`python -m gristmill.model train-stages ...` is `gristmill train-stages ...`."""

from __future__ import annotations

import sys

import torch
import typer

from gristmill.errors import GristmillError
from gristmill.model.distributed.ranks import leave
from gristmill.model.distributed.torchrun_errors import tell
from gristmill.model.training.commands import train, train_stages


def main() -> None:
    """Train; an error of ours is one line, the last, under torchrun too."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    stages = sys.argv[1:2] == ["train-stages"]
    if stages:
        del sys.argv[1]
    app.command()(train_stages if stages else train)
    try:
        try:
            app()
        except SystemExit as end:
            if not end.code:
                leave()
            raise
    except GristmillError as error:
        tell(f"{type(error).__name__}: {error}")
        sys.exit(2)
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
