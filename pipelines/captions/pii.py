"""E-mail addresses, telephone, card and network numbers in a text: found, or masked."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence

# Each pattern takes time in proportion to the text: it begins at marks, or at what is bounded.
_HOST = re.compile(r"@[\w-]+(?:\.[\w-]+)*\.\w{2,}\b")
# Said to be one, or written as one: +44 20 7946 0958, (555) 123-4567, 555-123-4567. Bare runs of
# digits are left alone: ISBNs, years and part numbers are commoner.
_PHONE = re.compile(
    r"(?P<lead>\b(?:tel|phone|call|fax|whatsapp)\b\W{0,3}?)(?:\+?\(?\d[\d()\s.-]{6,}\d)"
    r"|(?<!\w)\+\d{1,3}[\s.-]?\(?\d{1,4}\)?(?:[\s.-]?\d{2,4}){2,4}(?!\w)"
    r"|(?<![\w-])(?:\(\d{3}\)\s?|\d{3}[-.])\d{3}[-.]\d{4}(?![\w-])",
    re.I,
)
_CARD = re.compile(r"(?<![\w-])\d(?:[ -]?\d){12,18}(?![\w-])")
_NETWORK = re.compile(r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f:]{2,45}+)(?![\w.:])", re.I)


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


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _emails(text: str) -> Iterator[tuple[int, int]]:
    end = 0
    for host in _HOST.finditer(text):
        # Back from the mark, as a pattern would try each place of a long run before it.
        start = at = host.start()
        while at > end and (_is_word(text[at - 1]) or text[at - 1] in ".+-"):
            at -= 1
            if _is_word(text[at]) != _is_word(text[at - 1 : at]):
                start = at
        if start < host.start():
            end = host.end()
            yield start, end


def _matches(
    pattern: re.Pattern[str], is_one: Callable[[str], bool], text: str
) -> Iterator[tuple[int, int]]:
    for match in pattern.finditer(text):
        if is_one(match.group()):
            # What announces a number ("call ") is not private.
            yield match.start() + len(match.groupdict().get("lead") or ""), match.end()


KINDS: dict[str, Callable[[str], Iterator[tuple[int, int]]]] = {
    "email": _emails,
    "card": functools.partial(_matches, _CARD, _is_card),
    "phone": functools.partial(_matches, _PHONE, lambda _: True),
    "network": functools.partial(_matches, _NETWORK, _is_network),
}
"""Kind -> where there is one in a text, from its first character to the one after its last."""


def holds(text: str, kind: str) -> bool:
    """Whether something of a kind is in the text."""
    return any(True for _ in KINDS[kind](text))


def mask(text: str, kinds: Sequence[str]) -> tuple[str, int]:
    """The text with everything of these kinds as `<EMAIL>`, `<PHONE>` and so on, and how many."""
    count = 0
    for kind in kinds:
        pieces, end = [], 0
        for start, stop in KINDS[kind](text):
            pieces += [text[end:start], f"<{kind.upper()}>"]
            end, count = stop, count + 1
        text = "".join([*pieces, text[end:]])
    return text, count
