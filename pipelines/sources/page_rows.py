"""Rows of pages: a row for each picture that a page shows, and one for each record that shows
none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gristmill.pipelines.opt_outs import header_opt_out, meta_opt_out
from gristmill.pipelines.schema import FAILED_TO_DECODE, FAILED_TO_DOWNLOAD, PENDING, normalise_url
from gristmill.pipelines.sources.reasons import NO_ALT, NO_IMG, NO_URL, NOT_WEB
from gristmill.pipelines.sources.row_builder import RowBuilder, SourceRow
from gristmill.pipelines.sources.values import digest_of
from gristmill.pipelines.sources.web_page import PageImage

# Whom opt-outs may name.
_AGENT = "gristmill"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A picture that lies in the archive itself."""

    pointer: str
    # Why it may not be used.
    refused: str | None = None


def add_pictures(
    rows: RowBuilder,
    images: Sequence[tuple[PageImage, Stored | None]],
    page_url: str,
    facts: Mapping[str, object],
) -> None:
    """A row for each `<img>` of a page, of pictures in the archive with where they lie; one for a
    page without any."""
    if not images:
        add_refused(rows, page_url, facts, FAILED_TO_DECODE, NO_IMG)
    meta = {"page_url": page_url, **facts}
    for number, (image, stored) in enumerate(images):
        url = image.urls[0] if image.urls else None
        reason = _without_pair(image)
        if reason is not None or url is None:
            # Known by its place: it is a caption of no picture.
            locator = digest_of([page_url, *facts.values(), number])
            kind, status = "bytes", FAILED_TO_DECODE
        else:
            reason = stored.refused if stored else None
            locator, kind = normalise_url(url), "url"
            status = FAILED_TO_DOWNLOAD if reason else PENDING
        rows.add(
            SourceRow(
                kind=kind,
                locator=locator,
                url=url,
                pointer=stored.pointer if stored and not reason else None,
                status=status,
                error=reason,
                caption=image.alt or None,
                meta=meta,
            )
        )


def _without_pair(image: PageImage) -> str | None:
    """Why an `<img>` is no picture with a caption."""
    if not image.urls:
        return NOT_WEB if image.given else NO_URL
    return None if image.alt else NO_ALT


def add_refused(
    rows: RowBuilder,
    page_url: str,
    facts: Mapping[str, object],
    status: str,
    reason: str,
    content: object = None,
) -> None:
    """A record that comes in failed, one row; `content`: what else tells it from others."""
    rows.add(
        SourceRow(
            kind="bytes",
            locator=digest_of([page_url, *facts.values(), content, reason]),
            url=page_url or None,
            status=status,
            error=reason,
            meta=facts,
        )
    )


def opt_out_of(
    headers: Iterable[tuple[str, str]], metas: Iterable[tuple[str, str]] = ()
) -> str | None:
    """The reason for which a page, or a picture, asks not to be used."""
    found = header_opt_out(headers, _AGENT)
    for name, content in metas:
        found = found or meta_opt_out(name, content, _AGENT)
    return found
