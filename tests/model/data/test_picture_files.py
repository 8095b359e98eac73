"""Frames of clips as training reads them."""

from __future__ import annotations

import pytest
from videos import encode, numbered, read_number

from gristmill.errors import SampleError
from gristmill.model.data import picture_files
from gristmill.model.data.picture_files import decode_frame
from gristmill.pipelines.videos.frames import ClipFrames, decode_clip


def test_a_clip_is_decoded_once_for_all_its_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents want one after the other; each was decoded with the whole clip."""
    decodes = []

    def counting(data: bytes) -> ClipFrames:
        decodes.append(len(data))
        return decode_clip(data)

    monkeypatch.setattr(picture_files, "decode_clip", counting)
    clips = [encode([numbered(10 * clip + i) for i in range(30)]) for clip in range(2)]
    for clip in range(2):
        # Read anew each time, as from a shard.
        shown = [read_number(decode_frame(bytes(bytearray(clips[clip])), i, 6)) for i in range(6)]
        assert shown == sorted(set(shown)) and min(shown) >= 10 * clip
    assert len(decodes) == 2
    for _ in range(2):
        with pytest.raises(SampleError, match="clip does not decode"):
            decode_frame(b"no clip", 0, 2)
