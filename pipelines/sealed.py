"""Small JSON files that say of themselves whether they are as they were written.

`sealed` is their first key, and `seal` their last: the digest of all other bytes of the file. One
without either is of a time before there were seals, and is taken as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import xxhash

from gristmill.errors import BrokenRecordError
from gristmill.pipelines.patience import WrongBytesError, waits
from gristmill.pipelines.storage import Folder

_FIRST, _LAST = "sealed", "seal"
_DIGITS = 32
# What the file ends with, around the digest.
_BEFORE, _AFTER = f'"{_LAST}": "'.encode(), b'"\n}\n'


def seal(value: Mapping[str, object]) -> bytes:
    """The bytes of a sealed file."""
    whole = {_FIRST: 1, **value, _LAST: ""}
    text = json.dumps(whole, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
    head = text[: -len(_AFTER)]
    return head + _digest(head) + _AFTER


def unseal(data: bytes) -> dict[str, Any]:
    """What a sealed file says, without its seal. Raises `BrokenRecordError`."""
    try:
        value = json.loads(data.decode("utf-8", "surrogatepass"))
    except ValueError as error:
        raise BrokenRecordError(f"is no whole JSON ({error})") from None
    if not isinstance(value, dict):
        raise BrokenRecordError(f"holds a {type(value).__name__} where a record is expected")
    first, last = value.pop(_FIRST, None), value.pop(_LAST, None)
    if first is None and last is None:
        return value
    head, digest = data[: -_DIGITS - len(_AFTER)], data[-_DIGITS - len(_AFTER) : -len(_AFTER)]
    right = head.endswith(_BEFORE) and data.endswith(_AFTER) and _digest(head) == digest
    if not right:
        raise BrokenRecordError("was changed since it was written: its digest is another")
    return value


def _digest(head: bytes) -> bytes:
    return xxhash.xxh3_128_hexdigest(head).encode()


def write_sealed(folder: Folder, name: str, value: Mapping[str, object]) -> None:
    """Write a sealed file whole."""
    folder.write_bytes(name, seal(value))


def read_sealed(folder: Folder, name: str) -> dict[str, Any]:
    """What a sealed file says; read again a few times before it is called broken.

    Raises `BrokenRecordError`, and `FileNotFoundError` if there is none.
    """
    again = waits()
    while True:
        try:
            return unseal(folder.read_bytes(name))
        except BrokenRecordError as error:
            if not again(WrongBytesError(str(error))):
                raise BrokenRecordError(
                    f"{folder.join_url(name)} {error}; gristmill repair writes it anew"
                ) from None


def find_sealed(folder: Folder, name: str) -> dict[str, Any] | None:
    """What a sealed file says; None if there is none, or none that can be believed."""
    try:
        return read_sealed(folder, name)
    except (FileNotFoundError, BrokenRecordError):
        return None
