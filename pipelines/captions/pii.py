"""E-mail addresses, telephone, card and network numbers in a text: found, or masked."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence

_EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.\w{2,}\b")
# Said to be one, or written as one: +44 20 7946 0958, (555) 123-4567, 555-123-4567. Bare runs of
# digits are left alone: ISBNs, years and part numbers are commoner.
_PHONE = re.compile(
    r"(?P<lead>\b(?:tel|phone|call|fax|whatsapp)\b\W{0,3}?)(?:\+?\(?\d[\d()\s.-]{6,}\d)"
    r"|(?<!\w)\+\d{1,3}[\s.-]?\(?\d{1,4}\)?(?:[\s.-]?\d{2,4}){2,4}(?!\w)"
    r"|(?<![\w-])(?:\(\d{3}\)\s?|\d{3}[-.])\d{3}[-.]\d{4}(?![\w-])",
    re.I,
)
_CARD = re.compile(r"(?<![\w-])\d(?:[ -]?\d){12,18}(?![\w-])")
_NETWORK = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f:]*::?[0-9a-f:]+)(?![\w.:])", re.I
)


def _is_card(text: str) -> bool:
    """Luhn's check sum, which one random number in ten passes, and a card's first digits."""
    digits = [int(c) for c in text if c.isdigit()]
    if not 13 <= len(digits) <= 19 or digits[0] not in (2, 3, 4, 5, 6) or len(set(digits)) < 2:
        return False
    doubled = [sum(divmod(2 * d, 10)) for d in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_network(text: str) -> bool:
    """An address of IP that is no clock time or version number of one's own."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.version == 4 or text.count(":") >= 3


KINDS: dict[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "email": (_EMAIL, lambda _: True),
    "card": (_CARD, _is_card),
    "phone": (_PHONE, lambda _: True),
    "network": (_NETWORK, _is_network),
}
"""Kind -> what may be one, and whether it is."""


def holds(text: str, kind: str) -> bool:
    """Whether something of a kind is in the text."""
    pattern, is_one = KINDS[kind]
    return any(is_one(match.group()) for match in pattern.finditer(text))


def mask(text: str, kinds: Sequence[str]) -> tuple[str, int]:
    """The text with everything of these kinds as `<EMAIL>`, `<PHONE>` and so on, and how many."""
    count = 0
    for kind in kinds:
        pattern, is_one = KINDS[kind]
        pieces, end = [], 0
        for match in pattern.finditer(text):
            if is_one(match.group()):
                # What announces a number ("call ") is not private.
                lead = match.groupdict().get("lead") or ""
                pieces += [text[end : match.start()], lead, f"<{kind.upper()}>"]
                end, count = match.end(), count + 1
        text = "".join([*pieces, text[end:]])
    return text, count
