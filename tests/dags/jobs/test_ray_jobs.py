"""A job is followed through what happens to a connection, and ends as it ended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
import requests

from gristmill.dags.jobs import ray_jobs
from gristmill.dags.jobs.ray_jobs import Jobs
from gristmill.dags.jobs.shipment import Shipment
from gristmill.errors import RunError, WorkerError

LOG = "one\ntwo\nthree\n"


class Head:
    """A Jobs API whose connections break after so many characters each."""

    def __init__(self, status: str, breaks: list[int], code: int | None = None) -> None:
        self.status, self.breaks, self.code = status, breaks, code
        self.away = 0

    def get_job_info(self, job: str) -> SimpleNamespace:
        if self.away:
            self.away -= 1
            raise requests.ConnectionError("refused")
        status = "RUNNING" if self.breaks else self.status
        said = "a page\nNo module named 'duckdb'\n"
        return SimpleNamespace(status=status, driver_exit_code=self.code, message=said)

    def get_job_logs(self, job: str) -> str:
        return LOG

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        end = self.breaks.pop(0)
        for at in range(0, end, 3):
            yield LOG[at : min(at + 3, end)]
        if self.breaks:
            self.away = 1
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def submit_job(self, **job: object) -> str:
        if self.away:
            self.away -= 1
            raise RuntimeError("Request failed with status code 500: no available job agent")
        if self.status == "REFUSED":
            raise RuntimeError("Request failed with status code 400: no such thing")
        return str(job["submission_id"])


def following(head: Head, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.setattr(ray_jobs, "PAUSE", 0.0)
    monkeypatch.setattr(Jobs, "_connect", lambda self, warn: head)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    return Jobs("http://head:8265", print)


@pytest.mark.parametrize("breaks", [[], [5], [4, 9], [7, 3, 14]])
@pytest.mark.parametrize(
    ("status", "code", "ends"), [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("STOPPED", None, 130)]
)
def test_what_a_job_prints_is_shown_once(
    breaks: list[int], status: str, code: int | None, ends: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    jobs = following(Head(status, list(breaks), code), monkeypatch)
    assert jobs.follow("gristmill-1", said.append) == ends
    assert "".join(said) == LOG


def test_a_job_that_never_ran_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = following(Head("FAILED", []), monkeypatch)
    with pytest.raises(RunError, match=r"did not run to its end: No module named 'duckdb'$"):
        jobs.follow("gristmill-1", print)


def test_a_head_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_jobs, "PATIENCE", 0.0)
    head = Head("SUCCEEDED", [])
    head.away = 1000
    with pytest.raises(WorkerError, match="the job may go on: gristmill attach gristmill-1"):
        following(head, monkeypatch).follow("gristmill-1", print)


def test_a_head_that_was_just_started_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    head, job = Head("SUCCEEDED", []), Shipment("true", {}, {})
    head.away = 3
    assert following(head, monkeypatch).submit(job).startswith("gristmill-")
    with pytest.raises(WorkerError, match=r"head:8265 says: .* 400: no such thing$"):
        following(Head("REFUSED", []), monkeypatch).submit(job)
