"""A cluster's Jobs API: a job is sent, followed, stopped, listed.

With the runner on Ray and its neighbours the only module that imports ray.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import requests
from ray._private.runtime_env import packaging
from ray.dashboard.modules import dashboard_sdk
from ray.dashboard.modules.job import sdk
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from gristmill.dags.engine.ray_token import HOW_TO_MAKE, find_token
from gristmill.dags.jobs.shipment import Shipment
from gristmill.errors import ConfigurationError, RunError, WorkerError

T = TypeVar("T")
# A head that is away for so long while a job is followed is given up, seconds.
PATIENCE = 60.0
# Between two tries to reach it, seconds.
PAUSE = 2.0
# What a shell says of a program that Ctrl-C ended.
_STOPPED = 130


@dataclass(frozen=True)
class Job:
    """A job of ours on a cluster."""

    name: str
    # PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
    status: str
    recipe: str
    out: str
    # Seconds since 1970; None before it began.
    started: float | None


class Jobs:
    """The Jobs API at `address`, such as http://head:8265."""

    def __init__(self, address: str, warn: Callable[[str], None]) -> None:
        """Find out whether the head is open, of which `warn` is told, and have a token if not.

        Raises `ConfigurationError` without the right token, `WorkerError` if no head answers.
        """
        self.address = address
        # Or else Ray takes what the environment says before what it is told.
        os.environ["RAY_API_SERVER_ADDRESS"] = address
        for module in (sdk, dashboard_sdk, packaging):
            # Each has a level of its own.
            logging.getLogger(module.__name__).setLevel(logging.ERROR)
        self._client = self._connect(warn)

    def submit(self, shipment: Shipment) -> str:
        """Send a job, with its files, and return its name."""
        name = f"gristmill-{secrets.token_hex(4)}"
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return self._ask(
                    lambda: self._client.submit_job(
                        entrypoint=shipment.entrypoint,
                        runtime_env=dict(shipment.runtime_env),
                        metadata=dict(shipment.metadata),
                        submission_id=name,
                    )
                )
            except WorkerError as error:
                # A head that was started just now answers before it can take a job.
                if time.monotonic() > end or "job agent" not in str(error):
                    raise
                time.sleep(PAUSE)

    def follow(self, job: str, write: Callable[[str], None]) -> int:
        """Hand all that a job prints to `write`, from its beginning to its end, and return its exit
        code: 130 if it was stopped.

        Raises `RunError` if the job never came to run, `WorkerError` when the head is away for a
        minute, which the job does not mind.
        """
        shown = _Shown(write)
        lost: float | None = None
        while True:
            try:
                details = self._details(job)
                lost = None
                if JobStatus(details.status).is_terminal():
                    shown.show(self._ask(lambda: self._client.get_job_logs(job)), 0)
                    return _exit_code(job, details)
                asyncio.run(self._tail(job, shown))
            except (WorkerError, RuntimeError, OSError, aiohttp.ClientError) as error:
                lost = lost or time.monotonic()
                if time.monotonic() - lost > PATIENCE:
                    raise WorkerError(
                        f"{self.address} no longer answers ({_short(error)}); the job may go on: "
                        f"gristmill attach {job} --address {self.address}"
                    ) from error
                time.sleep(PAUSE)

    def stop(self, job: str) -> bool:
        """Tell a job to stop as Ctrl-C does; False if it had ended already."""
        self._details(job)
        return self._ask(lambda: self._client.stop_job(job))

    def list(self) -> list[Job]:
        """The jobs that `submit` sent to this cluster, the latest first."""
        found = [(job, job.metadata or {}) for job in self._ask(self._client.list_jobs)]
        found = [(job, said) for job, said in found if "gristmill" in said]
        found.sort(key=lambda one: one[0].start_time or 0, reverse=True)
        return [
            Job(
                name=job.submission_id or "",
                status=str(JobStatus(job.status).value),
                recipe=said.get("recipe", ""),
                out=said.get("out", ""),
                started=job.start_time / 1000 if job.start_time else None,
            )
            for job, said in found
        ]

    def _connect(self, warn: Callable[[str], None]) -> JobSubmissionClient:
        try:
            # Asked without a token: only a head that is open answers, and it learns no token.
            client = self._ask(lambda: _client(self.address, ""))
        except AuthenticationError:
            return self._connect_with_token()
        warn(
            f"the head at {self.address} is open: whoever reaches it can run programs there; make "
            f"a token by {HOW_TO_MAKE}"
        )
        return client

    def _connect_with_token(self) -> JobSubmissionClient:
        token = find_token()
        if token is None:
            raise ConfigurationError(
                f"the head at {self.address} asks for a token, and there is none here: copy its "
                "~/.ray/auth_token to this machine, or set RAY_AUTH_TOKEN"
            )
        try:
            return self._ask(lambda: _client(self.address, f"Bearer {token}"))
        except AuthenticationError:
            raise ConfigurationError(
                f"the head at {self.address} does not take the token of this machine: copy its "
                "~/.ray/auth_token here, or set RAY_AUTH_TOKEN"
            ) from None

    def _details(self, job: str) -> JobDetails:
        try:
            return self._ask(lambda: self._client.get_job_info(job))
        except WorkerError as error:
            if "status code 404" in str(error.__cause__):
                raise ConfigurationError(
                    f"no job {job!r} at {self.address}; gristmill jobs lists those that are there"
                ) from None
            raise

    def _ask(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except (ConnectionError, requests.RequestException) as error:
            raise WorkerError(
                f"no Ray head answers at {self.address} ({_short(error)}); does one of "
                "ray[default] run there, and is its port reached from here?"
            ) from error
        except AuthenticationError:
            raise
        except RuntimeError as error:
            raise WorkerError(f"the head at {self.address} says: {_short(error)}") from error

    async def _tail(self, job: str, shown: _Shown) -> None:
        """Show what a job prints, as it comes."""
        at = 0
        async for text in self._client.tail_job_logs(job):
            shown.show(text, at)
            at += len(text)


class _Shown:
    """What was shown of a job's output, which the head sends from its beginning each time."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._count = 0

    def show(self, text: str, at: int) -> None:
        """Write what is new in `text`, which lies at a place of the output."""
        if fresh := text[max(self._count - at, 0) :]:
            self._write(fresh)
            self._count = at + len(text)


def _client(address: str, authorization: str) -> JobSubmissionClient:
    return JobSubmissionClient(address, headers={"Authorization": authorization})


def _exit_code(job: str, details: JobDetails) -> int:
    status = JobStatus(details.status)
    if status == JobStatus.STOPPED:
        return _STOPPED
    if details.driver_exit_code is not None:
        return int(details.driver_exit_code)
    if status == JobStatus.SUCCEEDED:
        return 0
    raise RunError(f"{job} did not run to its end: {_short(details.message or 'no reason known')}")


def _short(error: object) -> str:
    """One line, of a message that may be a page."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()[:300]
