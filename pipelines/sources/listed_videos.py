"""Videos of lists: their ids, the pages they are watched on, files that somebody has fetched, and
the stretches that each line is about."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

from gristmill.pipelines.schema import FAILED_TO_DOWNLOAD, PENDING, normalise_url
from gristmill.pipelines.sources.columns import LISTED_NAMES
from gristmill.pipelines.sources.files import file_row
from gristmill.pipelines.sources.reasons import (
    AMBIGUOUS_NAME,
    NO_FILE_OF_ID,
    NO_RATE,
    NO_URL,
)
from gristmill.pipelines.sources.row_builder import ENDINGS, RowBuilder, SourceRow
from gristmill.pipelines.sources.values import (
    digest_of,
    ending_of,
    is_nothing,
    seconds,
    spelt,
    text_of,
)
from gristmill.pipelines.storage import Folder

_YOUTUBE = re.compile(r"(?:(?:www|m|music)\.)?youtube(?:-nocookie)?\.com")
_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
# Pages on which a video is watched: what they answer with is HTML.
_PAGES = re.compile(
    r"(?:www\.)?vimeo\.com/(?:\w+/)*\d+/?|(?:www\.)?(?:dailymotion|bilibili)\.com/video/.+"
    r"|dai\.ly/.+|(?:www\.)?tiktok\.com/@.+"
)
# As yt-dlp names files if it is told nothing else.
_ID_AT_END = re.compile(r".*\[([A-Za-z0-9_-]{11})\]")


class FilesById:
    """Videos below a folder by their ids: the name without its ending, or what stands in brackets
    at its end. The folder is walked when the first is asked for."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._names: dict[str, list[str]] | None = None

    def find(self, video_id: str) -> list[str]:
        """Names of the files that an id may be of."""
        if self._names is None:
            self._names = {}
            for name in self.folder.walk():
                base = name.rpartition("/")[2]
                if base.startswith(".") or ending_of(base) not in ENDINGS["video"]:
                    continue
                stem = base.rpartition(".")[0]
                bracketed = _ID_AT_END.fullmatch(stem)
                for key in (stem, *(bracketed.groups() if bracketed else ())):
                    self._names.setdefault(key, []).append(name)
        return self._names.get(video_id, [])


def listed_videos(
    rows: RowBuilder, row: SourceRow, facts: Mapping[str, object], meta: Mapping[str, object]
) -> Iterator[SourceRow]:
    """The rows of a line of a list, whose address is that of `row`: one for each stretch, each with
    the file that somebody has fetched, or why there is none."""
    named = {ours: _named(ours, facts, meta) for ours in LISTED_NAMES}
    times, reason = _times(_with_times(facts, meta), named)
    # Each row has its own of a list of them.
    taken = LISTED_NAMES["clips"] if "stretches" in times else ()
    said = row.saying({**facts, **times}, {k: v for k, v in meta.items() if k not in taken})
    if reason and said.error is None:
        place = f"{said.locator}#t={digest_of(named)}"
        said = replace(said, locator=place, status=FAILED_TO_DOWNLOAD, error=reason, pointer=None)
    for one in said.stretched():
        yield _with_file(rows, one, {**named, **_ids(one.meta)})


def _named(ours: str, facts: Mapping[str, object], meta: Mapping[str, object]) -> object:
    """What a line says under a name that was given, or under the first of the usual ones."""
    if ours in facts:
        return facts[ours]
    return next((meta[name] for name in LISTED_NAMES[ours] if name in meta), None)


def _with_times(facts: Mapping[str, object], meta: Mapping[str, object]) -> dict[str, object]:
    """The facts with start and end as only lists call them."""
    more = {
        ours: _named(ours, facts, meta)
        for ours in ("start", "end")
        if set(LISTED_NAMES[ours]) & set(meta)
    }
    return {**more, **facts}


def _ids(meta: Mapping[str, object]) -> dict[str, object]:
    """Ids that were said of one stretch alone, or of the line."""
    found = {ours: _named(ours, {}, meta) for ours in ("clip_id", "video_id")}
    return {ours: value for ours, value in found.items() if value is not None}


def _times(
    facts: Mapping[str, object], named: Mapping[str, object]
) -> tuple[dict[str, object], str | None]:
    """Start, end and stretches of a line, in whichever way it says them; and why it cannot be
    told."""
    said = {ours: facts[ours] for ours in ("start", "end") if ours in facts}
    clips = named["clips"]
    if any(not is_nothing(time) for time in said.values()) or facts.get("stretches") is not None:
        first, length = seconds(said.get("start")), seconds(named["duration"])
        if "end" not in said and first is not None and length:
            said["end"] = first + length
        return said, None
    if isinstance(spelt(clips), (list, tuple, Mapping)) or str(clips).lstrip()[:1] in ("[", "{"):
        return {**said, "stretches": clips}, None
    frames = [named["start_frame"], named["end_frame"]]
    if all(is_nothing(frame) for frame in frames):
        return said, None
    rate = seconds(named["frame_rate"])
    if not rate:
        return said, NO_RATE
    first_s, end_s = (_scaled(frame, rate) for frame in frames)
    return {"start": first_s, "end": end_s}, None


def _scaled(frame: object, rate: float) -> object:
    """Seconds of a number of a frame, or of each of a list; what is no number stays."""
    found = spelt(frame)
    if isinstance(found, (list, tuple)):
        return [_scaled(one, rate) for one in found]
    number = seconds(found)
    return frame if number is None or is_nothing(frame) else number / rate


def _with_file(rows: RowBuilder, row: SourceRow, named: Mapping[str, object]) -> SourceRow:
    """The row with the file that its ids name, if there is one; else as it is, if it has an address
    or a file's name of its own."""
    clip, video = _id_text(named["clip_id"]), _id_text(named["video_id"])
    if row.error not in (None, NO_URL) or (row.error and not (clip or video)):
        return row
    if row.error and video and _YOUTUBE_ID.fullmatch(video):
        page = f"https://www.youtube.com/watch?v={video}"
        locator = normalise_url(page)
        row = replace(row, kind="url", url=page, locator=locator, status=PENDING, error=None)
    watched = youtube_id(row.url)
    stretched = not (is_nothing(row.start) and is_nothing(row.end))
    if rows.by_id is not None:
        # An id beside that of the page is of a clip that was cut from it.
        tried = {clip: True, video: watched not in (None, video), watched: False}
        if row.pointer is not None:
            tried = {_stem(row.locator): False}
        for one, is_clip in tried.items():
            found = rows.by_id.find(one) if one else []
            if row.pointer is not None and (len(found) != 1 or row.locator in found):
                continue
            if found and (is_clip or stretched or not clip):
                return _found(rows.by_id.folder, row, found, is_clip=is_clip)
    if row.pointer is not None or (row.error is None and not is_page(row.url)):
        return row
    if rows.by_id is None and row.url:
        # The download says that it is a page; whoever has a way to its video may take the row.
        return row
    if not row.url:
        row = replace(row, kind="path", locator=clip or video or row.locator)
    return replace(row, status=FAILED_TO_DOWNLOAD, error=NO_FILE_OF_ID)


def _found(folder: Folder, row: SourceRow, names: list[str], *, is_clip: bool) -> SourceRow:
    """The row of a file that was found. What was cut already is known by its own name, and is not
    cut again."""
    if len(names) > 1:
        return replace(row, status=FAILED_TO_DOWNLOAD, error=AMBIGUOUS_NAME, pointer=None)
    file = file_row(folder, names[0])
    row = replace(row, pointer=file.pointer, status=file.status, error=file.error)
    if is_clip or not row.url or row.kind == "path":
        row = replace(row, kind="path", locator=names[0])
    if is_clip and row.error is None:
        past = {"source_start": row.start, "source_end": row.end}
        meta = {**row.meta, **{k: v for k, v in past.items() if not is_nothing(v)}}
        row = replace(row, start=None, end=None, status=PENDING, meta=meta)
    return row


def _id_text(value: object) -> str | None:
    """An id as the name of a file without its ending; None if there is none."""
    try:
        text = (text_of(value) or "").strip()
    except UnicodeDecodeError:
        return None
    return _stem(text) or None


def _stem(name: str) -> str:
    base = name.replace("\\", "/").rpartition("/")[2]
    return base.rpartition(".")[0] if ending_of(base) in ENDINGS["video"] else base


def youtube_id(url: str | None) -> str | None:
    """The id of the video that a page of YouTube shows; None for any other address."""
    try:
        parts = urlsplit((url or "").strip())
        host = (parts.hostname or "").lower()
    except ValueError:
        return None
    found = ""
    if host == "youtu.be":
        found = parts.path.strip("/")
    elif _YOUTUBE.fullmatch(host):
        kind, _, rest = parts.path.strip("/").partition("/")
        asked = parse_qs(parts.query).get("v", [""])[0]
        found = (
            asked if kind == "watch" else rest if kind in ("embed", "shorts", "v", "live") else ""
        )
    return found if _YOUTUBE_ID.fullmatch(found) else None


def is_page(url: str | None) -> bool:
    """Whether an address is that of a page on which a video is watched, not of its file."""
    if youtube_id(url) is not None:
        return True
    try:
        parts = urlsplit((url or "").strip())
    except ValueError:
        return False
    return _PAGES.fullmatch(f"{(parts.netloc or '').lower()}{parts.path}") is not None
