"""What a cell of a source means: a text, several texts, a number, a time, whatever else as JSON."""

from __future__ import annotations

import ast
import datetime
import decimal
import hashlib
import json
import math
import re
import warnings
from collections.abc import Mapping

from gristmill.pipelines.sources.reasons import BROKEN_JSON, TWO_KEYS


def text_of(value: object) -> str | None:
    """A text as Arrow can hold it; None for nothing, and for what is none: lists, mappings, truth
    values, times. Numbers are spelt, lone surrogates replaced.

    Raises `UnicodeDecodeError` for bytes that are not UTF-8.
    """
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8")
    if isinstance(value, bool) or not isinstance(value, (int, float, decimal.Decimal)):
        return None
    return None if math.isnan(value) else str(value)


def texts_of(value: object) -> tuple[list[str], bool]:
    """The captions of a cell: one, or those of a list; and whether it says anything else."""
    if isinstance(value, (list, tuple)):
        pairs = [texts_of(item) for item in value]
        return [text for texts, _ in pairs for text in texts], any(other for _, other in pairs)
    text = text_of(value)
    nothing = value is None or (isinstance(value, (float, decimal.Decimal)) and math.isnan(value))
    return ([] if text is None else [text]), text is None and not nothing


def digest_of(values: object) -> str:
    """What stands for a row that cannot be read, by all that it holds."""
    spoken = values if isinstance(values, str) else repr(values)
    return hashlib.sha256(spoken.encode("utf-8", "surrogatepass")).hexdigest()


class BrokenJson(ValueError):
    """A JSON text that cannot be taken; its message is the reason."""


def load_json(text: str | bytes) -> object:
    """A JSON value. Raises `BrokenJson`, also for two keys of one name."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except BrokenJson:
        raise
    except (ValueError, RecursionError) as error:
        raise BrokenJson(BROKEN_JSON) from error


def load_object(text: str | bytes) -> dict[str, object]:
    """A JSON object. Raises `BrokenJson` if it is none."""
    values = load_json(text)
    if not isinstance(values, dict):
        raise BrokenJson(BROKEN_JSON)
    return values


def load_sidecar(text: str | bytes) -> dict[str, object]:
    """What the JSON beside a picture says; what is no object is one fact, `sidecar`. Raises
    `BrokenJson` if it cannot be read."""
    values = load_json(text)
    return values if isinstance(values, dict) else {"sidecar": values}


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise BrokenJson(TWO_KEYS)
    return values


def is_address(value: object) -> bool:
    """Whether a cell holds a URL of the web."""
    return isinstance(value, str) and value.strip().lower().startswith(("http://", "https://"))


def ending_of(name: str) -> str:
    """What follows the last dot of a file's name, in lower case."""
    base = name.rpartition("/")[2]
    return base.rpartition(".")[2].lower() if "." in base else ""


def spelt(value: object) -> object:
    """A list or an object, also one that is spelt out as JSON or as Python does; anything else as
    it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "(", "{"):
        return value
    text = value.strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            # Backslashes in captions are no escapes.
            warnings.simplefilter("ignore")
            found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return value
    return found if isinstance(found, (list, tuple, Mapping)) else value


def listed(value: object) -> list[object] | None:
    """A list, also one that is spelt out; None for anything else."""
    found = spelt(value)
    return list(found) if isinstance(found, (list, tuple)) else None


def is_nothing(value: object) -> bool:
    """Whether a cell is left blank."""
    return value is None or (isinstance(value, str) and not value.strip())


# Clocks (1:02:03.5, 02:03,5), also behind days as pandas writes them, and durations of ISO 8601.
_CLOCK = re.compile(r"(?:(\d+) days?,? )?(?:(?:(\d+):)?(\d+):)?(\d+(?:[.,]\d*)?|[.,]\d+)")
_DURATION = re.compile(r"P(?:(\d+)D)?T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:[.,]\d+)?)S)?")


def seconds(value: object) -> float | None:
    """Seconds from a number, a time, or a text: h:mm:ss, mm:ss, PT1H2M3S; None for anything
    else."""
    if isinstance(value, datetime.timedelta):
        value = value.total_seconds()
    if isinstance(value, datetime.time):
        value = value.isoformat()
    try:
        text = (text_of(value) or "").strip()
    except UnicodeDecodeError:
        return None
    found = _CLOCK.fullmatch(text) or _DURATION.fullmatch(text)
    if found and any(found.groups()):
        pieces = (float((piece or "0").replace(",", ".")) for piece in found.groups())
        total = sum(piece * unit for piece, unit in zip(pieces, (86400, 3600, 60, 1), strict=True))
    else:
        try:
            # As numbers are written, such as 1e3; float() would take 1_000 as well.
            total = float(text.replace("_", "?"))
        except ValueError:
            return None
    return total if math.isfinite(total) and total >= 0 else None


def whole(value: object) -> int | None:
    """A whole number that fits 32 bits, or None."""
    try:
        number = int(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 <= number < 2**31 else None


def to_json(meta: Mapping[str, object]) -> str:
    """A JSON object with sorted keys; bytes that are no text are left out, NaN is null, the rest is
    spelt out."""
    try:
        plain = _plain(dict(meta))
        return json.dumps(plain, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except RecursionError:
        return json.dumps({"meta_error": "nested too deeply"})


def _plain(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (str, bytes)):
        return text_of(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, Mapping):
        return {
            str(text_of(str(key))): _plain(item) for key, item in value.items() if _is_plain(item)
        }
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value if _is_plain(item)]
    return text_of(str(value))


def _is_plain(value: object) -> bool:
    """Whether it is not bytes, or bytes that are text."""
    if not isinstance(value, bytes):
        return True
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
