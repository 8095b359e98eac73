"""Documents of texts and pictures in turn, from whatever form they come in: MMC4 and OBELICS rows,
HTML, pairs of pictures around an instruction."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import urljoin

from gristmill.errors import SourceError
from gristmill.pipelines.schema import normalise_url
from gristmill.pipelines.sources.cells import missing_column
from gristmill.pipelines.sources.columns import absent_column
from gristmill.pipelines.sources.reasons import (
    BROKEN_DOCUMENT,
    BROKEN_ENTRY,
    NO_URL,
    NOT_UTF8,
    OUTSIDE_TEXT,
    URL_NOT_TEXT,
)
from gristmill.pipelines.sources.values import text_of, whole
from gristmill.pipelines.sources.web_page import decode_page, image_of, joined

# Of which a document is made (MMC4, OBELICS); the similarities are as many as texts times pictures.
DOCUMENT_COLUMNS = (
    "text_list", "image_info", "similarity_matrix", "texts", "images", "metadata",
)  # fmt: skip
# Names of the pictures before and after an edit, of the instruction, and of what each shows
# (InstructPix2Pix, MagicBrush, HQ-Edit, UltraEdit, SEED-Data-Edit, ImgEdit, PromptFix, AnyEdit), in
# order.
PAIR_NAMES: dict[str, tuple[str, ...]] = {
    "source": (
        "original_image", "source_img", "source_image", "input_image", "src_img", "source",
        "input_images", "input_img", "image_file", "before", "input",
    ),
    "target": (
        "edited_image", "edited_img", "target_img", "target_image", "output_image", "trg_img",
        "output_images", "processed_img", "edited_file", "target", "after", "output", "edited",
    ),
    "instruction": (
        "edit_prompt", "instruction", "edit", "edit_instruction", "prompt",
        "edited_prompt_list", "text", "caption",
    ),
    "source_caption": (
        "original_prompt", "source_caption", "input_caption", "source_prompt",
        "source_image_caption",
    ),
    "target_caption": (
        "edited_prompt", "target_caption", "output_caption", "target_prompt",
        "target_image_caption",
    ),
}  # fmt: skip
# Lists of wordings of one instruction (OmniEdit); other lists are the turns of one edit.
WORDINGS = ("edited_prompt_list",)


@dataclass(frozen=True)
class DocumentImage:
    """A picture of a document: where its bytes are, and before which text it stands."""

    # Number of texts that come before it.
    place: int
    url: str | None = None
    pointer: str | None = None
    alt: str = ""
    # What shards call it; its number if empty.
    name: str = ""
    # Why it cannot be had, if that is known already.
    error: str = ""


@dataclass(frozen=True)
class ParsedDocument:
    """Texts in order, and pictures between them, in order."""

    texts: list[str]
    images: list[DocumentImage]
    url: str | None = None
    title: str = ""
    # Captions of the pictures, where they are known (pairs).
    captions: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        values = asdict(self)
        for image in values["images"]:
            # What a document is known by has no place for what is not said.
            if not image["error"]:
                del image["error"]
        return values


def from_dict(values: Mapping[str, Any]) -> ParsedDocument:
    """The inverse of `ParsedDocument.as_dict`."""
    images = [DocumentImage(**image) for image in values["images"]]
    return ParsedDocument(**{**values, "images": images})


def parse_document(values: Mapping[str, Any]) -> ParsedDocument:
    """A document of a row in the form of MMC4 (`text_list`, `image_info`) or OBELICS (`texts`,
    `images` of one length, one of them null at each place).

    Raises `ValueError` with a countable reason for anything else.
    """
    try:
        if "text_list" in values:
            return _mmc4(values)
        if "texts" in values and "images" in values:
            return _obelics(values)
    except UnicodeDecodeError as error:
        raise ValueError(NOT_UTF8) from error
    except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(BROKEN_DOCUMENT) from error
    raise ValueError("not a document")


def is_document(names: Collection[str]) -> bool:
    """Whether columns of these names are those of MMC4 or OBELICS."""
    return "text_list" in names or {"texts", "images"} <= set(names)


def _mmc4(values: Mapping[str, Any]) -> ParsedDocument:
    """Each picture stands before the sentence that it was matched to."""
    texts = _texts(values["text_list"])
    images = [_mmc4_image(info, len(texts)) for info in values.get("image_info") or ()]
    images.sort(key=lambda image: image.place)
    return ParsedDocument(texts, images, url=text_of(values.get("url")))


def _mmc4_image(info: object, texts: int) -> DocumentImage:
    """A picture of MMC4; what is wrong with it is its own, not the document's."""
    if not isinstance(info, Mapping):
        return DocumentImage(place=0, error=BROKEN_ENTRY)
    try:
        url = text_of(info.get("raw_url"))
    except UnicodeDecodeError:
        return DocumentImage(place=0, error=NOT_UTF8)
    place = whole(info.get("matched_text_index") or 0)
    if place is None or place >= max(texts, 1):
        return DocumentImage(place=0, url=url, error=OUTSIDE_TEXT)
    return DocumentImage(place=place, url=url, error="" if url else NO_URL)


def _texts(values: object) -> list[str]:
    """Texts of a document, each of its places one. Raises `TypeError` for what is no text."""
    if not isinstance(values, (list, tuple)):
        raise TypeError("texts are no list")
    found = []
    for value in values:
        text = text_of(value)
        if text is None and value is not None:
            raise TypeError("a text is no text")
        found.append(text or "")
    return found


def _obelics(values: Mapping[str, Any]) -> ParsedDocument:
    if len(values["texts"]) != len(values["images"]):
        raise ValueError("texts and images differ in number")
    facts = values.get("metadata")
    facts = json.loads(facts) if isinstance(facts, str) else facts
    general = values.get("general_metadata")
    general = json.loads(general) if isinstance(general, str) else general
    texts: list[str] = []
    images: list[DocumentImage] = []
    said = _texts(values["texts"])
    for i, (text, image) in enumerate(zip(said, values["images"], strict=True)):
        if text:
            texts.append(text)
        if image is not None and image != "":
            fact = facts[i] if isinstance(facts, list) and i < len(facts) else None
            alt = text_of(fact.get("alt_text")) if isinstance(fact, Mapping) else None
            images.append(_obelics_image(image, len(texts), alt or ""))
    url = general.get("url") if isinstance(general, Mapping) else None
    return ParsedDocument(texts, images, url=text_of(url or values.get("url")))


def _obelics_image(value: object, place: int, alt: str) -> DocumentImage:
    try:
        url = text_of(value)
    except UnicodeDecodeError:
        return DocumentImage(place=place, alt=alt, error=NOT_UTF8)
    return DocumentImage(place=place, url=url, alt=alt, error="" if url else URL_NOT_TEXT)


@dataclass(frozen=True)
class StoredImage:
    """A picture that lies in the archive of its page, and why it may not be used, if so."""

    pointer: str
    refused: str = ""


def parse_html(
    data: bytes,
    url: str | None,
    charset: str | None = None,
    stored: Mapping[str, StoredImage] | None = None,
) -> ParsedDocument:
    """Main texts and pictures of a page in their order; what surrounds them is left out by
    trafilatura (Barbaresi 2021).

    `charset`: what its server said. `stored`: pictures that lie in the archive of the page, by
    their addresses (`normalise_url`). Raises `ValueError` if it finds no text.
    """
    import trafilatura

    tree = trafilatura.load_html(decode_page(data, charset))
    if tree is None:
        raise ValueError("no main text")
    base_of_page = tree.find(".//base[@href]")
    base = url if base_of_page is None else joined(url or "", base_of_page.get("href")) or url
    title = tree.findtext(".//title") or ""
    held = _name_stored(tree, base, stored or {})
    # Its metadata take three quarters of its time, and nothing here uses them.
    found: Any = trafilatura.bare_extraction(
        tree,
        url=base,
        include_images=True,
        include_comments=False,
        include_tables=False,
        with_metadata=False,
    )
    if found is None or found.body is None:
        raise ValueError("no main text")
    texts: list[str] = []
    images: list[DocumentImage] = []
    for element in found.body.iter():
        if element.tag == "graphic":
            address = element.get("src") or ""
            absolute = _joined(base, address)
            if image := held.get(address.rpartition("/")[2]):
                images.append(replace(image, place=len(texts), alt=element.get("alt") or ""))
            elif absolute and not absolute.startswith("data:"):
                images.append(
                    DocumentImage(place=len(texts), url=absolute, alt=element.get("alt") or "")
                )
            pieces = [element.tail]
        elif element.tag in ("head", "p", "quote", "item", "ab", "cell"):
            pieces = ["".join(_own_text(element))]
        else:
            pieces = []
        texts += [text for piece in pieces if (text := " ".join((piece or "").split()))]
    if not texts:
        raise ValueError("no main text")
    return ParsedDocument(texts, images, url=url, title=" ".join(title.split()))


def _name_stored(
    tree: Any, base: str | None, stored: Mapping[str, StoredImage]
) -> dict[str, DocumentImage]:
    """Pictures of a page that lie in its archive, by the names that they are given in the tree:
    of those without a usual ending trafilatura takes none."""
    held: dict[str, DocumentImage] = {}
    for element in tree.iter("img") if stored else ():
        for address in image_of(element.attrib, base or "").urls:
            lies = stored.get(normalise_url(address))
            if lies is None:
                continue
            name = f"picture-in-the-archive-{len(held)}.png"
            held[name] = DocumentImage(
                place=0,
                url=address,
                pointer=None if lies.refused else lies.pointer,
                error=lies.refused,
            )
            for attribute in set(element.attrib) - {"alt", "title"}:
                del element.attrib[attribute]
            element.set("src", name)
            break
    return held


def _joined(base: str | None, address: str) -> str:
    """The address as seen from its page; one that is no address stays as it is."""
    try:
        return urljoin(base, address) if base else address
    except ValueError:
        return address


def _own_text(element: Any) -> list[str]:
    """Text of an element and of inline marks within it, without blocks that come by themselves."""
    blocks = ("head", "p", "quote", "item", "ab", "cell", "graphic", "list")
    pieces = [element.text or ""]
    for child in element:
        if child.tag not in blocks:
            pieces += _own_text(child)
        pieces.append(child.tail or "" if child.tag != "graphic" else "")
    return pieces


def map_pair(available: Sequence[str], given: Mapping[str, str], where: str) -> dict[str, str]:
    """Our name -> theirs, for the columns of a table of edit pairs, or for the keys of a line.

    Raises `SourceError` for what was given and is not there, or is no name of ours.
    """
    mapping: dict[str, str] = {}
    for ours, theirs in given.items():
        if ours not in PAIR_NAMES:
            raise SourceError(f"the column mapping: {ours!r} is none of {', '.join(PAIR_NAMES)}")
        absent = missing_column(available, theirs)
        if absent is not None:
            raise SourceError(absent_column(where, absent, available))
        mapping[ours] = theirs
    for ours, usual in PAIR_NAMES.items():
        if ours not in mapping:
            found = [n for n in usual if n in available and n not in mapping.values()]
            if found:
                mapping[ours] = found[0]
    return mapping


def check_pair(available: Sequence[str], given: Mapping[str, str], where: str) -> None:
    """Raise `SourceError` if a table lacks what a pair is made of."""
    mapping = map_pair(available, given, where)
    missing = [name for name in ("source", "target", "instruction") if name not in mapping]
    if missing:
        raise SourceError(
            f"{where}: no column for {', '.join(missing)} among {list(available)}; name it with "
            f"--column {missing[0]}=NAME"
        )


def pair_document(
    source: DocumentImage, target: DocumentImage, instruction: str, captions: Sequence[str]
) -> ParsedDocument:
    """Picture, instruction, picture."""
    return ParsedDocument([instruction], [source, target], captions=list(captions))
