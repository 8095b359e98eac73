"""A dataset repository of the Hugging Face Hub, as publishing sees it: what is there, and commits.

The token is the hub library's business (HF_TOKEN, or what `hf auth login` stored); it is never
taken from a command line, and nothing that is said or raised here holds it.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gristmill.errors import ConfigurationError, GristmillError, StorageError
from gristmill.pipelines.hub import LOG_IN, end_silence, refusal, status_of, without_secrets
from gristmill.pipelines.patience import may_heal, waits

# Files of one commit that are sent side by side.
_THREADS = 5
_FORM = "hf://datasets/OWNER/NAME[@REVISION][/PATH]"

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Target:
    """Where a set goes: a repository (`OWNER/NAME`), a branch of it, a folder there ("": its
    root)."""

    repository: str
    revision: str = "main"
    path: str = ""

    @property
    def url(self) -> str:
        """As it was given."""
        at = f"@{self.revision}" if self.revision != "main" else ""
        return f"hf://datasets/{self.repository}{at}" + (f"/{self.path}" if self.path else "")

    def place(self, name: str) -> str:
        """Where a file of the set lies in the repository."""
        return f"{self.path}/{name}" if self.path else name


def parse_target(text: str) -> Target:
    """Raises `ConfigurationError` for what is no URL of a dataset on the Hub."""
    from huggingface_hub import parse_hf_uri

    if not text.startswith("hf://"):
        raise ConfigurationError(f"{text!r} is not on the Hub: write {_FORM}")
    try:
        parsed = parse_hf_uri(text.rstrip("/"))
    except ValueError as error:
        raise ConfigurationError(f"{text!r}: {error}; write {_FORM}") from error
    if parsed.type != "dataset":
        raise ConfigurationError(f"{text!r} is a {parsed.type}, not a dataset: write {_FORM}")
    path = parsed.path_in_repo.strip("/")
    if any(name in ("", ".", "..", ".git") for name in path.split("/")) and path:
        raise ConfigurationError(f"{text!r}: {path!r} cannot be a folder of a repository")
    return Target(parsed.id, parsed.revision or "main", path)


@dataclass(frozen=True)
class RemoteFile:
    """A file that is there: its bytes; the sha256 of what lies in large-file storage, else the id
    of git's blob."""

    size: int
    sha256: str | None
    blob: str

    def is_the_same(self, size: int, sha256: str, read: Callable[[], bytes]) -> bool:
        """Whether it is the file with that size and digest; `read` gives the bytes of a small
        one, which git names by a digest of its own."""
        if size != self.size:
            return False
        if self.sha256 is not None:
            return sha256 == self.sha256
        data = read()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == self.blob


@dataclass
class Upload:
    """A file to send: where it goes, and its bytes, or the local file that holds them."""

    place: str
    source: bytes | str
    size: int
    # A copy of a file that lies elsewhere, of no use once it is sent.
    is_copy: bool = False


class HubRepository:
    """The repository of a target. Every request is tried again while its failure may heal, and
    what fails for good is a `ConfigurationError` or a `StorageError` with the remedy."""

    def __init__(self, target: Target) -> None:
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

        # Ours are shown instead; and its warnings name the signed URLs of puts.
        disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        self.target = target
        self._token: str | None = None
        self._token = self._ask(get_token, "reading the token")
        if not self._token:
            raise ConfigurationError(f"no token for {target.url}: {LOG_IN}")
        self._api = HfApi(token=self._token)

    def visibility(self) -> str | None:
        """`private` or `public`; None if there is no such repository, or none that may be seen."""
        from huggingface_hub.errors import RepositoryNotFoundError

        def look() -> str | None:
            try:
                info = self._api.repo_info(self.target.repository, repo_type="dataset")
            except RepositoryNotFoundError as error:
                if error.response.status_code != 404:
                    raise
                return None
            return "private" if info.private else "public"

        return self._ask(look, "looking for it")

    def create(self, *, public: bool) -> None:
        """Make the repository, if it is not there yet."""
        name = self.target.repository
        self._ask(
            lambda: self._api.create_repo(
                name, repo_type="dataset", private=not public, exist_ok=True
            ),
            "making it",
        )

    def files(self) -> dict[str, RemoteFile]:
        """All files of the branch by place; makes the branch, from main, if it is not there."""
        from huggingface_hub import RepoFile
        from huggingface_hub.errors import RevisionNotFoundError

        name, revision = self.target.repository, self.target.revision

        def look() -> dict[str, RemoteFile]:
            tree = self._api.list_repo_tree(
                name, recursive=True, revision=revision, repo_type="dataset"
            )
            return {
                entry.path: RemoteFile(
                    entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id
                )
                for entry in tree
                if isinstance(entry, RepoFile)
            }

        def look_or_branch() -> dict[str, RemoteFile]:
            try:
                return look()
            except RevisionNotFoundError:
                if revision == "main":
                    # A repository without a commit.
                    return {}
            self._api.create_branch(name, branch=revision, repo_type="dataset", exist_ok=True)
            return look()

        return self._ask(look_or_branch, "listing it")

    def read(self, place: str) -> bytes:
        """A small file."""
        from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status

        url = hf_hub_url(
            self.target.repository,
            place,
            repo_type="dataset",
            revision=self.target.revision,
            endpoint=self._api.endpoint,
        )

        def get() -> bytes:
            answer = get_session().get(url, headers={"Authorization": f"Bearer {self._token}"})
            hf_raise_for_status(answer)
            return bytes(answer.content)

        return self._ask(get, f"reading {place}")

    def commit(
        self,
        uploads: Iterable[Sequence[Upload]],
        deleted: Sequence[str],
        message: str,
        sent: Callable[[Sequence[Upload]], None],
    ) -> None:
        """One commit: files, sent group by group, and places whose files go. `sent` is told of
        each group whose bytes are there. What the Hub holds already is not sent again."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations: list[CommitOperationAdd | CommitOperationDelete] = []
        operations += [CommitOperationDelete(path_in_repo=place) for place in deleted]
        where: Any = {"repo_id": self.target.repository, "repo_type": "dataset"}
        for group in uploads:
            adds = [
                CommitOperationAdd(path_in_repo=one.place, path_or_fileobj=one.source)
                for one in group
            ]
            send = functools.partial(
                self._api.preupload_lfs_files,
                additions=adds,
                revision=self.target.revision,
                num_threads=_THREADS,
                **where,
            )
            self._ask(send, "sending files")
            for one, add in zip(group, adds, strict=True):
                # The library lets go of what is in large-file storage now.
                if one.is_copy and isinstance(one.source, str) and add.path_or_fileobj == b"":
                    os.unlink(one.source)
            operations += adds
            sent(group)
        tries = 0

        def commit() -> None:
            nonlocal operations, tries
            tries += 1
            if tries > 1 and deleted:
                # The answer may have been lost, and not the commit.
                gone = set(deleted) - set(self.files())
                operations = [one for one in operations if one.path_in_repo not in gone]
            self._api.create_commit(
                operations=operations,
                commit_message=message,
                revision=self.target.revision,
                **where,
            )

        self._ask(commit, "committing files")

    def _ask(self, work: Callable[[], _Found], doing: str) -> _Found:
        """What `work` returns, tried again for a while; or an error of ours."""
        again = waits()
        while True:
            end_silence()
            try:
                return work()
            except GristmillError:
                raise
            except Exception as error:
                cause = _answered(error)
                if not may_heal(cause) or not again(cause):
                    # What it is made of may hold the token or a signed URL, so it is not kept.
                    raise self._said(error, doing) from None

    def _said(self, error: BaseException, doing: str) -> GristmillError:
        """What a person is told."""
        status, where = status_of(error), self.target.url
        text = without_secrets(f"{type(error).__name__}: {error}", self._token)[:400]
        refused = refusal(error)
        if refused is not None and "gated" in refused:
            return ConfigurationError(f"{where} {refused}")
        if status == 401:
            return ConfigurationError(
                f"{where}: the Hub does not take the token: {LOG_IN} anew ({text})"
            )
        if status == 403:
            owner = self.target.repository.partition("/")[0]
            return ConfigurationError(
                f"{where}: {doing} is not for this token: take one with write access to {owner} "
                f"({LOG_IN}), or publish under a name of your own ({text})"
            )
        if refused is not None:
            return ConfigurationError(f"{where} {refused}")
        remedy = "everything committed stays: run the same command again"
        if status == 429:
            remedy = f"the Hub asks for fewer requests; {remedy} later"
        return StorageError(f"{where}: {doing} failed ({text}); {remedy}")


def _answered(error: Exception) -> BaseException:
    """The error of the request behind one of the library's own (`Error while uploading ...`)."""
    one: BaseException = error
    while type(one) is RuntimeError and one.__cause__ is not None:
        one = one.__cause__
    return one
