"""A finished set of shards on the Hugging Face Hub: verified, resumed after a cut, with its card.

Shards and their sidecars go first, in commits of some files each; the card, croissant.json and the
manifest go last, in one commit. So a set that was published by half has no manifest, which readers
refuse, and the same command goes on: what is there with the same bytes is not sent again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.runs.forget import hidden_problems
from gristmill.dags.runs.hub_card import front_matter, readme, split_card
from gristmill.dags.runs.hub_repository import HubRepository, Target, Upload, parse_target
from gristmill.dags.runs.plan import finished_parts, has_work, open_run
from gristmill.dags.runs.upload_progress import UploadProgress
from gristmill.errors import ConfigurationError, RunError, ShardError
from gristmill.pipelines.shards.manifest import FileFact, Manifest
from gristmill.pipelines.shards.reader import read_forgotten, read_manifest
from gristmill.pipelines.shards.verify import verify_shards
from gristmill.pipelines.stage import Write
from gristmill.pipelines.storage import Folder

# A commit: what a cut costs at most. The Hub wants few commits, and few files in each.
_COMMIT_FILES, _COMMIT_BYTES = 100, 8 * 2**30
# Sent together, and copied here together where the set lies elsewhere.
_GROUP_BYTES = 2**30
MANIFEST, CARD, README = "manifest.json", "DATASET_CARD.md", "README.md"
_LAST = (CARD, "croissant.json")
# What a set of ours may consist of: shards, and what lies beside them.
_OURS = re.compile(
    r"(?:train|val)/(?:\d{8}\.(?:tar|parquet)|\d{8}_stats\.json|metadata/\d{8}\.parquet"
    r"|sizes\.json|shardindex\.json)"
)
_PROBLEMS = 5


@dataclass
class Published:
    """What was done: files and bytes that were sent, files that were there, places of files of an
    earlier publish that are in the set no more and those of them that were deleted."""

    target: Target
    created: bool = False
    sent: int = 0
    sent_bytes: int = 0
    reused: int = 0
    stale: list[str] = field(default_factory=list)
    deleted: int = 0
    commits: int = 0


@dataclass(frozen=True)
class _Set:
    """A set to publish: its folder, its manifest, the bytes of that, and its run, if it has one."""

    folder: Folder
    manifest: Manifest
    sealed: bytes
    run: RunLayout | None

    def files(self) -> list[FileFact]:
        """Every file but the manifest; shards in order, each kind of sidecar after them."""
        shards = [s for split in self.manifest["splits"].values() for s in split["shards"]]
        return [*shards, *self.manifest["files"]]


def publish(
    folder: str,
    url: str,
    *,
    public: bool = False,
    delete: bool = False,
    progress: UploadProgress | None = None,
) -> Published:
    """Publish a run's shards, or a folder of shards, at `hf://datasets/OWNER/NAME[@REV][/PATH]`.

    A new repository is private unless `public`; into one that is public nothing goes without it.
    `delete` also removes files of an earlier publish that are in the set no more. Raises
    `RunError` or `ShardError` for a set that is not finished or not what was written,
    `ConfigurationError` for what the Hub refuses, `StorageError` for what may heal.
    """
    target = parse_target(url)
    told = progress or UploadProgress()
    found = _find_set(folder)
    hub = HubRepository(target)
    visibility = hub.visibility()
    if visibility == "public" and not public:
        raise ConfigurationError(
            f"{target.repository} is public: add --public to publish there, or name another"
        )
    told.note(f"verifying {folder}")
    _verify(found)
    result = Published(target, created=visibility is None)
    if visibility is None:
        hub.create(public=public)
        told.note(f"made {target.repository}, {'public' if public else 'private'}")
    elif visibility == "private" and public:
        told.note(f"{target.repository} stays private; its settings on the Hub make it public")
    _Publication(hub, found, result, told).send(delete=delete)
    return result


def _find_set(folder: str) -> _Set:
    """The set of a run, or that lies in a folder itself."""
    there, run = Folder(folder), None
    if there.exists("dag.yaml"):
        run = open_run(folder)
        there = _product(run)
    manifest = read_manifest(there)
    return _Set(there, manifest, there.read_bytes(MANIFEST), run)


def _product(run: RunLayout) -> Folder:
    """The folder of a run's shards. Raises `RunError` for a run that has not come to its end, or
    has several."""
    products = [node for node in run.dag.order() if isinstance(run.dag.stage(node), Write)]
    if len(products) != 1:
        named = ", ".join(f"{run.url}/{node}" for node in products) or "none"
        raise RunError(f"{run.url} has {len(products)} sets of shards: name one of them ({named})")
    finished_parts(run)
    if has_work(run, products[0]):
        raise RunError(
            f"{run.url} has not come to its end: its {products[0]} are not those of its dag.yaml; "
            "run the same command again, then publish"
        )
    return run.folder.sub(products[0])


def _verify(found: _Set) -> None:
    """Raise `ShardError` for a set that is not what was written, or holds what is forgotten."""
    url = found.folder.url
    if problems := verify_shards(url):
        more = f"; and {len(problems) - _PROBLEMS} more" if len(problems) > _PROBLEMS else ""
        raise ShardError(
            f"{url} is not what was written, nothing was published: "
            f"{'; '.join(problems[:_PROBLEMS])}{more}; gristmill repair RUN makes it whole again"
        )
    if not any(split["shards"] for split in found.manifest["splits"].values()):
        raise ShardError(f"{url} has no samples; there is nothing to publish")
    hidden = len(read_forgotten(found.folder))
    problems = hidden_problems(found.run, finished_parts(found.run)) if found.run else []
    if hidden or problems:
        why = f"{hidden} samples of its shards are to be forgotten" if hidden else problems[0]
        raise ShardError(
            f"{url}: {why}; build the shards without them first: gristmill keep RUN --shards"
        )


class _Publication:
    """A set on its way into a repository."""

    def __init__(
        self, hub: HubRepository, found: _Set, result: Published, told: UploadProgress
    ) -> None:
        self._hub, self._set, self._result, self._told = hub, found, result, told
        self._place = hub.target.place
        self._there = hub.files()

    def send(self, *, delete: bool) -> None:
        """Send what is not there, card and manifest last."""
        files = self._set.files()
        missing = [fact for fact in files if not self._is_there(fact)]
        first = [fact for fact in missing if fact["name"] not in _LAST]
        ours = {self._place(name) for name in (MANIFEST, *(fact["name"] for fact in files))}
        self._result.stale = self._stale(ours)
        self._result.reused = len(files) - len(missing)
        gone = self._result.stale if delete else []
        strangers = sorted(set(self._there) - ours - set(gone))
        # With shards of another set among its own, the manifest of before is none of this one.
        last = self._last(missing, strangers, anew=bool(first))
        if not (last or gone):
            return
        sizes = [fact["bytes"] for fact in first] + [upload.size for upload in last]
        self._told.start(len(sizes), sum(sizes))
        # Until the last commit nobody shall take what is there for a whole set.
        old = [place for place in (self._place(MANIFEST),) if place in self._there]
        for batch in _cut(first, _COMMIT_FILES, _COMMIT_BYTES):
            with tempfile.TemporaryDirectory(prefix="gristmill-publish-") as copies:
                groups = _cut(batch, _COMMIT_FILES, _GROUP_BYTES)
                self._commit((self._local(group, copies) for group in groups), old, len(batch))
            old = []
        self._require_unchanged()
        if first:
            self._require_there(first)
        self._commit([last] if last else [], gone, len(last))
        self._result.deleted = len(gone)

    def _is_there(self, fact: FileFact) -> bool:
        remote, name = self._there.get(self._place(fact["name"])), fact["name"]
        return remote is not None and remote.is_the_same(
            fact["bytes"], fact["sha256"], lambda: self._set.folder.read_bytes(name)
        )

    def _stale(self, ours: set[str]) -> list[str]:
        """Places of files of an earlier publish that are in the set no more."""
        start = self._place("")
        return sorted(
            place
            for place in set(self._there) - ours
            if place.startswith(start) and _OURS.fullmatch(place.removeprefix(start))
        )

    def _last(
        self, missing: Sequence[FileFact], strangers: Sequence[str], *, anew: bool
    ) -> list[Upload]:
        """Those of card, croissant.json, README.md and manifest that are not there as they are; the
        manifest also if it is made `anew`."""
        read = self._set.folder.read_bytes
        uploads = [self._upload(f["name"], read(f["name"])) for f in missing if f["name"] in _LAST]
        if (text := self._readme(strangers)) is not None:
            data = text.encode()
            uploads.append(Upload(README, data, len(data)))
        sealed = self._set.sealed
        digest = hashlib.sha256(sealed).hexdigest()
        remote = self._there.get(self._place(MANIFEST))
        if anew or remote is None or not remote.is_the_same(len(sealed), digest, lambda: sealed):
            uploads.append(self._upload(MANIFEST, sealed))
        return uploads

    def _readme(self, strangers: Sequence[str]) -> str | None:
        """README.md with our card in it; None if it is there as it should be."""
        target = self._hub.target
        there = self._hub.read(README).decode() if README in self._there else None
        card = self._set.folder.read_bytes(CARD).decode()
        said = split_card(card, CARD)[0]
        matter = front_matter(said, self._set.manifest, target.path, strangers)
        text = readme(there, f"{target.repository}/{README}", card, matter, target.path)
        return None if text == there else text

    def _upload(self, name: str, data: bytes) -> Upload:
        return Upload(self._place(name), data, len(data))

    def _local(self, facts: Sequence[FileFact], copies: str) -> list[Upload]:
        """Files to send, as local files: copies of those that lie elsewhere."""
        folder, uploads = self._set.folder, []
        for fact in facts:
            path = folder.local_path(fact["name"])
            is_copy = path is None
            if path is None:
                path = os.path.join(copies, fact["name"].replace("/", "-"))
                with open(path, "wb") as file:
                    file.writelines(folder.pieces(fact["name"], fact["bytes"]))
            uploads.append(Upload(self._place(fact["name"]), path, fact["bytes"], is_copy))
        return uploads

    def _commit(
        self, groups: Iterable[Sequence[Upload]], deleted: Sequence[str], files: int
    ) -> None:
        self._hub.commit(groups, deleted, f"gristmill publish: {files} files", self._sent)
        self._result.commits += 1

    def _sent(self, group: Sequence[Upload]) -> None:
        size = sum(upload.size for upload in group)
        self._result.sent += len(group)
        self._result.sent_bytes += size
        self._told.sent(len(group), size)

    def _require_there(self, sent: Sequence[FileFact]) -> None:
        """All that was sent is in the repository now, so that the manifest may follow."""
        self._there = self._hub.files()
        left = [fact["name"] for fact in sent if not self._is_there(fact)]
        if left:
            raise ConfigurationError(
                f"{self._hub.target.url}: {len(left)} files that were sent are not there, "
                f"{left[0]} first; does a .gitignore of the repository leave them out, or does "
                "somebody else publish there? Then publish again"
            )

    def _require_unchanged(self) -> None:
        """The set is the one that was verified."""
        with contextlib.suppress(FileNotFoundError):
            if self._set.folder.read_bytes(MANIFEST) == self._set.sealed:
                return
        raise RunError(
            f"{self._set.folder.url} was written anew meanwhile; publish again when that is done"
        )


def _cut(facts: Sequence[FileFact], files: int, size: int) -> Iterator[list[FileFact]]:
    """Pieces of at most so many files and, of more than one file, so many bytes."""
    piece: list[FileFact] = []
    held = 0
    for fact in facts:
        if piece and (len(piece) == files or held + fact["bytes"] > size):
            yield piece
            piece, held = [], 0
        piece.append(fact)
        held += fact["bytes"]
    if piece:
        yield piece
