"""Conversations in tars of anybody: KEY.json with turns, and its pictures KEY.jpg, or KEY.0.jpg,
KEY.1.jpg and so on, or none."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Mapping, Sequence

from gristmill.pipelines.sources.conversations import (
    TURNS,
    BrokenConversation,
    Turn,
    conversation_of,
)
from gristmill.pipelines.sources.values import BrokenJson, load_json
from gristmill.pipelines.tar_samples import FACT_ENDING, SEVERAL_PICTURES, TarMember, TarSample


def whole_conversations(
    samples: Sequence[TarSample[TarMember]], texts: Mapping[int, bytes]
) -> list[TarSample[TarMember]]:
    """The samples of a tar; of a conversation with several pictures, which is none for readers of
    one picture, one sample in the place of its first."""
    found: list[TarSample[TarMember]] = []
    before = None
    for sample in samples:
        if sample.reason == SEVERAL_PICTURES and _turns(sample, texts):
            if sample.key != before:
                found.append(TarSample(sample.key, sample.members, sample.picture))
            before = sample.key
            continue
        found.append(sample)
        before = None
    return found


def conversation_in(
    sample: TarSample[TarMember], texts: Mapping[int, bytes], is_image: Callable[[str], bool]
) -> tuple[list[Turn], list[TarMember]]:
    """The turns of a sample, none if it has none, and its pictures: of a conversation all that lie
    in the tar, by number; else its one."""
    turns = [] if sample.reason else _turns(sample, texts)
    if not turns:
        return [], [sample.members[sample.picture]] if sample.picture else []
    names = sorted(filter(is_image, sample.members), key=_by_number)
    # A link that leads nowhere is no picture.
    return turns, [sample.members[name] for name in names if sample.members[name].size]


def _turns(sample: TarSample[TarMember], texts: Mapping[int, bytes]) -> list[Turn]:
    """What the JSON member says in turn; a list of turns, or an object that has one."""
    for ending in (FACT_ENDING, f"{FACT_ENDING}.gz"):
        member = sample.members.get(ending)
        if member is None:
            continue
        try:
            data = texts.get(member.number, b"")
            facts = load_json(gzip.decompress(data) if ending.endswith(".gz") else data)
            if isinstance(facts, list):
                facts = {TURNS[0]: facts}
            # A question and its answer are columns of a picture.
            names = (*TURNS, "system")
            if not isinstance(facts, dict) or not facts:
                return []
            return conversation_of({n: facts.get(n) for n in names})
        except (BrokenJson, BrokenConversation, OSError, EOFError, zlib.error):
            return []
    return []


def _by_number(name: str) -> list[tuple[int, str]]:
    """0.jpg, 2.jpg, 10.jpg."""
    return [
        (int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", name)
    ]
