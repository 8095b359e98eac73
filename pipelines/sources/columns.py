"""Which column of a source is which of ours: what was named, then the names that are usual."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence

from gristmill.errors import SourceError, nearest
from gristmill.pipelines.sources.cells import missing_column

# Spellings of public datasets (LAION, CC12M, COYO, DataComp, SBU, Hugging Face), in order.
USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "url": ("url", "URL", "image_url", "img_url", "photo_image_url", "coco_url"),
    "caption": (
        "caption", "TEXT", "text", "txt", "top_caption", "alt_text", "captions", "title",
        "description", "prompt",
    ),
    "path": ("path", "file_name", "image_path", "filename", "file", "image"),
    "licence": ("licence", "license", "LICENSE"),
    "width": ("original_width", "width", "WIDTH"),
    "height": ("original_height", "height", "HEIGHT"),
}  # fmt: skip

# The same of videos (WebVid, OpenVid, InternVid, Panda, MiraData), and of the stretch that a
# caption is about.
USUAL_VIDEO_NAMES: dict[str, tuple[str, ...]] = {
    **USUAL_NAMES,
    "url": ("url", "URL", "video_url", "contentUrl", "video", "link"),
    "caption": (
        *USUAL_NAMES["caption"], "name", "Caption", "dense_caption", "short_caption", "sentence",
        "sentences",
    ),
    "path": (*USUAL_NAMES["path"], "video_path"),
    "start": ("start", "start_s", "start_time", "start_sec", "Start_timestamp", "begin"),
    "end": ("end", "end_s", "end_time", "end_sec", "End_timestamp"),
    # A list of [start, end], beside a list of captions.
    "stretches": ("timestamp", "timestamps", "segments"),
}  # fmt: skip

# What tables of videos that lie elsewhere say besides, beside a clip that was cut already of its
# past; it stays with what else is said of a row.
LISTED_NAMES: dict[str, tuple[str, ...]] = {
    # Under which a file may lie in a folder of videos.
    "clip_id": ("clip_id", "clipID"),
    "video_id": (
        "video_id", "videoID", "YoutubeID", "youtube_id", "youtubeID", "yt_id", "ytid", "YTID",
        "videoid", "vid",
    ),
    "start": (
        "start_seconds", "start_timestamp", "start_timestep", "clip_start", "begin_time",
    ),
    "end": ("end_seconds", "end_timestamp", "end_timestep", "clip_end"),
    "start_frame": ("start_frame", "begin_frame"),
    "end_frame": ("end_frame",),
    "frame_rate": ("fps", "frame_rate", "framerate"),
    # Where there is a start and no end.
    "duration": ("duration", "duration_s", "duration_sec"),
    # Objects with a span (HD-VILA).
    "clips": ("clip", "clips", "span", "spans", "segment"),
}  # fmt: skip


class ColumnMap:
    """Our column -> theirs, for each set of names that a source's rows have."""

    def __init__(self, given: Mapping[str, str], kind: str = "image") -> None:
        self._usual = USUAL_VIDEO_NAMES if kind == "video" else USUAL_NAMES
        known = (*self._usual, "image", *(LISTED_NAMES if kind == "video" else ()))
        for ours, theirs in given.items():
            if ours not in known:
                raise SourceError(
                    f"--column {ours}={theirs}: rows have no {ours!r}; " + nearest(ours, known)
                )
        self.given = dict(given)
        self._found: dict[frozenset[str], dict[str, str]] = {}

    def of(self, names: Iterable[str]) -> Mapping[str, str]:
        """The mapping for a row with these names, whatever their order. What was given holds in
        every row, also in one that lacks it; the rest is found by the usual names."""
        key = frozenset(names)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._match(key)
        return found

    def of_table(self, names: Sequence[str], where: str) -> Mapping[str, str]:
        """The same for a table, which must have what was given, and each name once."""
        check_repeated(names, where)
        self.check_given(names, where)
        return self.of(names)

    def check_given(self, names: Collection[str], where: str) -> None:
        """Raise `SourceError` if a column that was given is not among these."""
        absent = self.absent(names)
        if absent is not None:
            raise SourceError(absent_column(where, absent, list(names)))

    def absent(self, names: Collection[str]) -> str | None:
        """A column that what was given needs, and that is not among these."""
        missing = (missing_column(names, theirs) for theirs in self.given.values())
        return next((name for name in missing if name is not None), None)

    def _match(self, names: frozenset[str]) -> dict[str, str]:
        mapping = dict(self.given)
        for ours, usual in self._usual.items():
            if ours not in mapping:
                taken = mapping.values()
                found = [name for name in usual if name in names and name not in taken]
                if found:
                    mapping[ours] = found[0]
        return mapping


def has_ids(mapping: Mapping[str, str], names: Collection[str], kind: str) -> bool:
    """Whether a table with these columns names videos by an id."""
    ids = ("video_id", "clip_id") if kind == "video" else ()
    return any(one in mapping or set(LISTED_NAMES[one]) & set(names) for one in ids)


def check_repeated(names: Sequence[str], where: str) -> None:
    """Raise `SourceError` if two columns have one name: which of them counts cannot be told."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SourceError(
            f"{where} has {names.count(repeated[0])} columns called {repeated[0]!r}; rename or "
            "drop all but one"
        )


def absent_column(where: str, name: str, available: Sequence[str]) -> str:
    """The message for a column that was named and is not there."""
    lower = {one.lower(): one for one in reversed(available)}
    near = difflib.get_close_matches(name.lower(), lower, n=1)
    hint = f"did you mean {lower[near[0]]!r}? " if near else ""
    return f"{where} has no column {name!r}; {hint}its columns: {', '.join(available)}"


def is_found(mapping: Mapping[str, str], kind: str) -> bool:
    """Whether a table has what rows are known by: addresses or names of files; of texts, the
    text."""
    return "caption" in mapping if kind == "text" else "url" in mapping or "path" in mapping


def without_text(where: str, available: Sequence[str]) -> str:
    """The message for a table of texts without a column of texts."""
    return (
        f"{where} has no column of texts among {', '.join(available) or 'no columns at all'}; "
        "name it with caption=NAME"
    )


def without_address(where: str, what: str, available: Sequence[str]) -> str:
    """The message for a table without a column of addresses, with the likeliest if there is one."""
    marks = ("url", "uri", "link", "href", "src", "address")
    near = [name for name in available if any(mark in name.lower() for mark in marks)]
    return (
        f"{where} has no {what} column among {', '.join(available) or 'no columns at all'}; name "
        f"it with --column url={near[0] if near else 'NAME'}, or, if it names files, with --column "
        "path=NAME"
    )
