"""Finds a demo beside that of pictures by its name."""

from __future__ import annotations

from gristmill.dags.demos.media import MediaDemo, run_media_demo
from gristmill.errors import ConfigurationError, nearest

__all__ = ["find_demo", "run_media_demo"]


def find_demo(name: str) -> MediaDemo:
    """The demo of a name; `ConfigurationError` with the nearest for an unknown one."""
    from gristmill.dags.demos import edit as demo_edit
    from gristmill.dags.demos import interleaved as demo_interleaved
    from gristmill.dags.demos import video as demo_video

    known = {
        "video": demo_video.DEMO, "interleaved": demo_interleaved.DEMO, "edit": demo_edit.DEMO,
    }  # fmt: skip
    if name not in known:
        raise ConfigurationError(f"no demo {name!r}; {nearest(name, ['image', *known])}")
    return known[name]
