"""This installation's package as it travels: a folder of plain files, or a wheel.

A checkout that is installed in place reaches its rooms through links, which no archive of Ray's
keeps; here they are followed. Nothing is built: what runs here is what is sent.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from gristmill import __version__, errors
from gristmill.errors import ConfigurationError

_NAME = "gristmill"
# Any date will do, if it is always the same: the name of what is sent is the digest of its bytes.
_WHEN = (1980, 1, 1, 0, 0, 0)


def copy_package(folder: Path) -> Path:
    """Write the package below `folder`, and return its own folder there."""
    for name, path in _files():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return folder / _NAME


def write_wheel(folder: Path) -> Path:
    """Write the package as a wheel into `folder`; nodes that install it get its dependencies.

    Raises `ConfigurationError` where the package was never installed, so that nothing says which
    those are.
    """
    try:
        installed = importlib.metadata.distribution(_NAME)
    except importlib.metadata.PackageNotFoundError:
        raise ConfigurationError(
            "gristmill is not installed here, so its dependencies are not known: install it, or "
            "leave out --package wheel"
        ) from None
    info = f"{_NAME}-{__version__}.dist-info"
    contents = {name: path.read_bytes() for name, path in _files()}
    # A build in place leaves the same facts beside the sources, under another name.
    metadata = installed.read_text("METADATA") or installed.read_text("PKG-INFO") or ""
    contents[f"{info}/METADATA"] = metadata.encode()
    contents[f"{info}/entry_points.txt"] = (installed.read_text("entry_points.txt") or "").encode()
    contents[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: gristmill\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = "".join(f"{name},{_digest(data)},{len(data)}\n" for name, data in contents.items())
    contents[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    wheel = folder / f"{_NAME}-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(zipfile.ZipInfo(name, _WHEN), data, zipfile.ZIP_DEFLATED)
    return wheel


def _files() -> Iterator[tuple[str, Path]]:
    """Name in an archive and place here of every file of the package, in one order."""
    root = Path(errors.__file__).parent
    for folder, below, names in os.walk(root, followlinks=True):
        below[:] = sorted(n for n in below if n[0] not in "._" and n != "node_modules")
        for name in sorted(names):
            if not name.startswith(".") and not name.endswith(".pyc"):
                path = Path(folder, name)
                yield str(path.relative_to(root.parent)), path


def _digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
