"""A run as a job: its command on the cluster, and the files that travel with it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from gristmill import __version__
from gristmill.dags.graph import Dag
from gristmill.dags.jobs.package_files import copy_package, write_wheel
from gristmill.dags.jobs.user_files import copy_user_files
from gristmill.errors import ConfigurationError

PACKAGE = ("code", "wheel", "image")
# A driver is told to stop as by Ctrl-C, and has this long to end, seconds.
STOP_SIGNAL, STOP_SECONDS = "SIGINT", 60
# Extra of the package -> protocols that need it.
_EXTRAS = {"s3": ("s3://", "s3a://"), "gcs": ("gs://", "gcs://")}
_SAME_VERSION = (
    "import sys, gristmill; gristmill.__version__ == sys.argv[1] or sys.exit("
    "'the nodes have gristmill ' + gristmill.__version__ + ', and the job was sent by ' "
    "+ sys.argv[1] + ': send it along, without --package image')"
)


class RuntimeEnv(TypedDict, total=False):
    """What Ray gives to every process of a job; folders are of the machine that sends it."""

    working_dir: str
    py_modules: list[str]
    pip: list[str]
    env_vars: dict[str, str]


@dataclass(frozen=True)
class Shipment:
    """A job, ready to be sent."""

    entrypoint: str
    runtime_env: RuntimeEnv
    metadata: Mapping[str, str]


def pack(
    recipe: str, dag: Dag, out: str, options: Sequence[str], package: str, folder: Path
) -> Shipment:
    """The job that runs `recipe` into `out`; what travels is written below `folder`, which must be
    there until it is sent.

    `options`: those of `gristmill run`, but for the recipe. `package`: `code` sends this package's
    files, whose dependencies the nodes have; `wheel` has each node install it with them; `image`
    takes that of the nodes, if it is of this version. Raises `ConfigurationError`.
    """
    if package not in PACKAGE:
        raise ConfigurationError(f"--package {package}; choose one of {', '.join(PACKAGE)}")
    work = folder / "work"
    work.mkdir()
    name = copy_user_files(recipe, dag, work)
    command = ["python", "-m", "gristmill", "run", name, *options, "--address", "auto"]
    if "--json" not in options:
        command.append("--plain")
    runtime_env = RuntimeEnv(
        env_vars={
            "RAY_JOB_STOP_SIGNAL": STOP_SIGNAL,
            "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
        }
    )
    entrypoint = shlex.join(command)
    if package == "code":
        runtime_env["py_modules"] = [str(copy_package(folder))]
    elif package == "wheel":
        wheel = write_wheel(work)
        extras = [name for name, kinds in _EXTRAS.items() if any(k in entrypoint for k in kinds)]
        place = f"${{RAY_RUNTIME_ENV_CREATE_WORKING_DIR}}/{wheel.name}"
        runtime_env["pip"] = [f"{place}[{','.join(extras)}]" if extras else place]
    else:
        check = shlex.join(["python", "-c", _SAME_VERSION, __version__])
        entrypoint = f"{check} && {entrypoint}"
    if any(work.iterdir()):
        runtime_env["working_dir"] = str(work)
    metadata = {"gristmill": __version__, "recipe": recipe, "out": out}
    return Shipment(entrypoint, runtime_env, metadata)
