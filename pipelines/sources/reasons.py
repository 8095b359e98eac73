"""Why a row of a source comes in failed: short texts that can be counted. Those about tars are in
`gristmill.pipelines.tar_samples`. What to do about each stands in docs/formats.md."""

from __future__ import annotations

# Of tables.
BROKEN_JSON = "broken json line"
TWO_KEYS = "two keys of one name"
BROKEN_QUOTES = "broken quotes"
BROKEN_ROW_GROUP = "broken row group"
SEVERAL_IN_ROW = "several pictures in one row"
# Of addresses.
NO_URL = "no url"
LOCAL_PATH = "local path, not a url"
URL_NOT_TEXT = "url is not text"
# Of texts.
NO_TEXT = "no text"
NOT_UTF8 = "text is not UTF-8"
BROKEN_SIDECAR = "broken json sidecar"
SHARED_SIDECAR = "one sidecar of several pictures"
# Of lists of videos.
STRETCHES_DIFFER = "timestamps and captions differ in number"
BAD_TIMES = "times of the stretch cannot be read"
REVERSED_TIMES = "stretch ends before it begins"
NO_START = "stretch without a start"
NO_END = "stretch without an end"
NO_STRETCHES = "empty list of stretches"
NO_RATE = "frame numbers without fps"
NO_FILE_OF_ID = "no file of that id"
# Of files.
OUTSIDE = "path leaves the folder"
NAME_NOT_UTF8 = "file name is not UTF-8"
AMBIGUOUS_NAME = "several files of that name"
# Of COCO files.
REPEATED_IMAGE_ID = "two images of one id"
NO_IMAGE_OF_ID = "caption of no image"
BROKEN_ENTRY = "broken entry"
NO_FILE_NAME = "no file name"
# Of documents.
BROKEN_DOCUMENT = "broken document"
OUTSIDE_TEXT = "picture outside the text"
# Of conversations.
NO_TURNS = "no conversation"
NO_ANSWER = "nothing is answered"
NO_PICTURES = "conversation without pictures"
BROKEN_TURN = "broken turn"
UNKNOWN_SPEAKER = "unknown speaker"
CALL_OF_TOOL = "call of a tool without its text"
FEWER_PICTURES = "more picture marks than pictures"
MORE_PICTURES = "fewer picture marks than pictures"
# Of crawl archives.
BROKEN_RECORD = "broken record"
TRUNCATED_RECORD = "truncated record"
BROKEN_PAYLOAD = "payload not decodable"
LARGE_PAGE = "page too large"
NOT_A_PAGE = "not a page"
REVISIT = "revisit of an earlier record"
NO_IMG = "page without pictures"
NO_ALT = "no alt text"
NOT_WEB = "not an http address"
OF_NO_PAGE = "picture of no page"
# Of an img2dataset folder.
NOT_IN_PARQUET = "member without a line in the parquet"


def wrong_cells(found: int, expected: int) -> str:
    """A line of a table with more or fewer cells than its first."""
    return f"row has {found} cells, header has {expected}"


def no_picture(kind: str) -> str:
    """A cell without bytes."""
    return f"no {kind}"


def no_member(kind: str) -> str:
    """A sample of a tar without a picture (or video)."""
    return f"no {kind} member"
