"""Stretches of videos as their lists spell them: two times, pairs of times, objects with a span;
each in seconds, on a clock, or as Python or JSON writes a list of those."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gristmill.pipelines.sources.columns import LISTED_NAMES, USUAL_VIDEO_NAMES
from gristmill.pipelines.sources.reasons import (
    BAD_TIMES,
    NO_END,
    NO_START,
    NO_STRETCHES,
    REVERSED_TIMES,
)
from gristmill.pipelines.sources.values import is_nothing, seconds, spelt

# Where an object keeps its two times as a pair.
_SPANS = ("span", "segment", "timestamp", "timestamps")
# Two times of a clock in one text.
_RANGE = re.compile(r"\s*(\d+:[\d:.,]+)\s*(?:-->|-|–|,|to)\s*(\d+:[\d:.,]+)\s*")


@dataclass(frozen=True)
class Stretch:
    """What a list says of one stretch: its times as they are spelt, and what is said of it
    alone."""

    start: object
    end: object
    # Only if `has_caption`.
    caption: object = None
    has_caption: bool = False
    facts: Mapping[str, object] = field(default_factory=dict)


class BadStretch(ValueError):
    """Times that are no stretch; its message is the reason."""


def seconds_of(start: object, end: object, *, from_start: bool) -> tuple[float, float] | None:
    """The two times in seconds; None if neither is given. With `from_start`, one without a start
    begins at 0.

    Raises `BadStretch` for times that cannot be read, only one of them, or the wrong order.
    """
    if is_nothing(start) and is_nothing(end):
        return None
    if is_nothing(end):
        raise BadStretch(NO_END)
    if is_nothing(start) and not from_start:
        raise BadStretch(NO_START)
    first, last = 0.0 if is_nothing(start) else seconds(start), seconds(end)
    if first is None or last is None:
        raise BadStretch(BAD_TIMES)
    if last <= first:
        raise BadStretch(REVERSED_TIMES)
    return first, last


def stretches_of(value: object) -> tuple[list[Stretch], bool] | None:
    """The stretches that a cell names, and whether it is a list of them, beside which a list of
    captions may stand; None if it says nothing, or something else, such as a date.

    Raises `BadStretch` for a list of none, and for what begins as a list does and is none.
    """
    found = spelt(value)
    if isinstance(found, str):
        clock = _RANGE.fullmatch(found)
        if clock:
            return [Stretch(clock[1], clock[2])], False
        if found.lstrip()[:1] in ("[", "(", "{"):
            raise BadStretch(BAD_TIMES)
        return None
    if isinstance(found, Mapping):
        return [_stretch(found)], False
    if not isinstance(found, (list, tuple)):
        return None
    if not found:
        raise BadStretch(NO_STRETCHES)
    if not any(_holds_more(item) for item in found):
        if len(found) == 2:
            return [Stretch(*found)], False
        # Moments, perhaps, but no stretches.
        raise BadStretch(BAD_TIMES)
    return [_stretch(item) for item in found], True


def zipped(starts: object, ends: object) -> list[Stretch] | None:
    """The stretches of two lists, one of starts and one of ends; None where neither is a list.
    Raises `BadStretch` if only one is, or they differ in length."""
    first, last = spelt(starts), spelt(ends)
    lists = [isinstance(one, (list, tuple)) for one in (first, last)]
    if not any(lists):
        return None
    if not isinstance(first, (list, tuple)) or not isinstance(last, (list, tuple)):
        raise BadStretch(BAD_TIMES)
    if len(first) != len(last):
        raise BadStretch(BAD_TIMES)
    if not first:
        raise BadStretch(NO_STRETCHES)
    return [Stretch(*times) for times in zip(first, last, strict=True)]


def _holds_more(item: object) -> bool:
    """Whether an item of a list is a list or an object itself, or two times in one text."""
    if isinstance(item, str) and _RANGE.fullmatch(item):
        return True
    return isinstance(spelt(item), (list, tuple, Mapping))


def _stretch(item: object) -> Stretch:
    """One item of a list; what is no stretch is one whose times cannot be read."""
    found = spelt(item)
    if isinstance(found, str):
        clock = _RANGE.fullmatch(found)
        return Stretch(clock[1], clock[2]) if clock else Stretch(item, item)
    if isinstance(found, Mapping):
        return _stretch_of_object(found)
    return _pair(found)


def _pair(value: object) -> Stretch:
    found = spelt(value)
    if isinstance(found, (list, tuple)) and len(found) == 2:
        return Stretch(*found)
    # A number or a longer list is no time of anything.
    return Stretch([value], [value])


def _stretch_of_object(values: Mapping[object, object]) -> Stretch:
    named = {str(name): value for name, value in values.items()}
    span = _first(_SPANS, named)
    start, end = (
        _first((*USUAL_VIDEO_NAMES[name], *LISTED_NAMES[name]), named) for name in ("start", "end")
    )
    used = {span} if span else {name for name in (start, end) if name}
    times = _pair(named[span]) if span else Stretch(named.get(start or ""), named.get(end or ""))
    if not used:
        times = Stretch([values], [values])
    caption = _first(USUAL_VIDEO_NAMES["caption"], named)
    return Stretch(
        times.start,
        times.end,
        named.get(caption or ""),
        caption is not None,
        {name: value for name, value in named.items() if name not in {*used, caption}},
    )


def _first(names: Sequence[str], values: Mapping[str, object]) -> str | None:
    return next((name for name in names if name in values), None)
