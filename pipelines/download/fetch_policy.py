"""What a client of the open web keeps to, and the failures that another try may heal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from gristmill import __version__
from gristmill.pipelines.download.site_files import ROBOTS_UNREACHABLE, TDMREP_UNREACHABLE
from gristmill.pipelines.stage import execution, setting

USER_AGENT = f"gristmill/{__version__} (dataset curation; respects X-Robots-Tag)"
# The same, of one who does not.
_PLAIN_AGENT = f"gristmill/{__version__} (dataset curation)"

# Whether TLS told who answered: what the column `tls` says; nothing, where no TLS was.
VERIFIED, UNVERIFIED = "verified", "unverified"

# A host that asks for more patience than there is, and one whose turns nobody counts any more.
CRAWL_DELAY_TOO_LONG = "crawl-delay too long"
RETRY_AFTER_TOO_LONG = "retry-after too long"
NO_TURN = "no turn at the host"
# Rows that end so were not asked for.
NOT_ASKED = (
    CRAWL_DELAY_TOO_LONG, RETRY_AFTER_TOO_LONG, NO_TURN, ROBOTS_UNREACHABLE, TDMREP_UNREACHABLE,
)  # fmt: skip
_AT_ONCE = (
    "connection refused", "connection failed", "connection lost", "truncated transfer", "http 429",
    "http 500", "http 502", "http 503", "http 504",
)  # fmt: skip
# Failures that another try may heal.
TRANSIENT = (*_AT_ONCE, "name not resolved", "timed out", "http 408", *NOT_ASKED)
# Of these, what is worth another try at once: a slow server is left alone, and a name has been
# asked for several times.
RETRIED = _AT_ONCE


def is_transient(error: str, also: Sequence[str] = ()) -> bool:
    """Whether a failure with this reason may heal."""
    return error in TRANSIENT or error in also


@dataclass(frozen=True)
class Fetched:
    """The bytes of a URL, or why there are none."""

    data: bytes | None
    error: str | None = None
    # With verify_tls=false: `verified`, or `unverified` if some answer on the way was; None: all
    # was plain http.
    tls: str | None = None


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """Bounds and manners of a client that a stage lets its user choose."""

    # Fields that are no more, and what to write instead.
    FORMER: ClassVar[Mapping[str, str]] = {
        "robots": "X-Robots-Tag is respected with the other forms of an opt-out: set opt_out=off "
        "where it was empty, and leave it out otherwise"
    }

    # Of one transfer, inflated.
    max_bytes: int = setting(50_000_000, unit="bytes", low=1)
    # For one try: connection, redirects and the whole body; looking names up is not counted.
    timeout_s: float = setting(15.0, unit="s", low=0)
    # Redirects of one try; the address is checked at each.
    max_redirects: int = setting(5, low=0)
    # Further tries for what may heal: connection, 429 with Retry-After, 5xx.
    retries: int = setting(2, low=0)
    # "host" or "host:port" that may lie in a private network.
    allow_hosts: tuple[str, ...] = ()
    # "web": 80, 443, 8080, 8443, and what `allow_hosts` names; "any": every port.
    ports: str = setting("web", choices=("web", "any"), later=True)
    # URL of a trusted proxy; addresses are then the proxy's business.
    proxy: str = ""
    # What servers are told of who asks.
    user_agent: str = USER_AGENT
    # Whose wishes not to be used are kept. "header": those of each answer (X-Robots-Tag, as
    # img2dataset; Content-Usage; tdm-reservation). "robots": also those of robots.txt and
    # /.well-known/tdmrep.json of each host. "off": nobody's.
    opt_out: str = setting("header", choices=("header", "robots", "off"))
    # False: a server whose certificate does not verify is asked all the same; the column `tls` says
    # `unverified` of what it sent.
    verify_tls: bool = setting(True, later=True)
    # Transfers at once of one worker.
    connections: int = execution(64, low=1)
    # Transfers at once of one worker to one host and port.
    per_host: int = execution(16, low=1)
    # Requests a second to one host, of all workers together; 0: as many as there are answers.
    per_host_rate: float = execution(0.0, unit="requests/s", low=0)
    # Longest Retry-After, or Crawl-delay of a robots.txt, that is waited for; the rows of a host
    # that asks for more fail, and may be tried again.
    max_host_wait_s: float = execution(60.0, unit="s", low=0)


@dataclass(frozen=True, kw_only=True)
class FetchPolicy(FetchLimits):
    """All that a client keeps to."""

    # Seconds before the second try; doubled each time, plus up to half of it at random.
    backoff_s: float = 0.5
    # Name servers, "address:port"; none: those of the machine.
    name_servers: tuple[str, ...] = ()

    def headers(self) -> dict[str, str]:
        """What goes with every request."""
        says_too_much = self.opt_out == "off" and self.user_agent == USER_AGENT
        agent = _PLAIN_AGENT if says_too_much else self.user_agent
        return {"User-Agent": agent, "Accept-Encoding": "identity"}
