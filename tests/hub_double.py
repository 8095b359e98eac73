"""What a hub of datasets holds and has been asked: repositories with branches, files of git and of
LFS, commits. `hub_server.py` answers for it."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOKEN = "hf_s3cretOfTheOwner00000000000000"
STRANGER = "hf_s3cretOfAStranger0000000000000"
# In the URLs that the double hands out for puts; as secret as a token.
SIGNATURE = "X-Amz-Signature=5ignedByTheDouble"
LFS = (".tar", ".parquet", ".jpg", ".png", ".arrow")


@dataclass
class Stored:
    """A file of a commit: its bytes, by LFS or by git."""

    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def blob(self) -> str:
        """What git calls it: of LFS, the pointer file."""
        data = self.data
        if self.lfs:
            oid = f"oid sha256:{self.sha256}\nsize {len(data)}\n"
            data = f"version https://git-lfs.github.com/spec/v1\n{oid}".encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repository:
    """A dataset: branches of files by path; the messages of its commits, and what each did."""

    private: bool = False
    gated: bool = False
    branches: dict[str, dict[str, Stored]] = field(default_factory=lambda: {"main": {}})
    # Endings of files that its .gitignore leaves out.
    ignored: tuple[str, ...] = ()
    commits: list[str] = field(default_factory=list)
    # Path -> in which commit it came last; those that were deleted, by commit.
    added: list[list[str]] = field(default_factory=list)
    deleted: list[list[str]] = field(default_factory=list)

    @property
    def files(self) -> dict[str, Stored]:
        """Those of main."""
        return self.branches["main"]

    def put(self, path: str, data: bytes, revision: str = "main") -> None:
        """Lay a file there, as if somebody had pushed it."""
        self.branches[revision][path] = Stored(data, path.endswith(LFS))


class HubDouble:
    """The state of the hub, and what becomes of requests."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.repositories: dict[str, Repository] = {}
        # Token -> who has it.
        self.users = {TOKEN: "owner", STRANGER: "stranger"}
        # Bytes of LFS by digest; whether committed or not.
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        # Method and kind of each request, as `POST commit`.
        self.asked: Counter[str] = Counter()
        # Digest -> bytes of it that came by put, those of puts that were cut as well.
        self.received: Counter[str] = Counter()
        # After so many bytes of puts the hub hangs up on everything.
        self.cut_after: int | None = None
        # After so many commits were done it hangs up, before it answers.
        self.cut_commits: int | None = None
        self.down = False
        # Called when it hangs up.
        self.at_cut: Callable[[], object] = lambda: None
        # Statuses that the next requests of a kind get: {"commit": [503, 429]}.
        self.refuse: dict[str, list[int]] = {}
        # Says the credentials back in its errors, as careless proxies do.
        self.gossip = False
        self.page = 1000
        # LFS files above it are put in parts of so many bytes; 0: in one piece.
        self.part_bytes = 0
        self.endpoint = ""

    def repository(self, name: str = "owner/set", **fields: Any) -> Repository:
        """A dataset of that name; made if there is none."""
        return self.repositories.setdefault(name, Repository(**fields))

    def write_to(self, folder: Path, name: str = "owner/set", revision: str = "main") -> Path:
        """All files of a branch, as somebody's clone has them."""
        for path, stored in self.repositories[name].branches[revision].items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(stored.data)
        return folder

    def cut(self) -> None:
        """Hang up on everybody."""
        if not self.down:
            self.down = True
            self.at_cut()

    def up(self) -> None:
        """Answer again."""
        self.down, self.cut_after, self.cut_commits = False, None, None
