"""Documents of every paradigm: what is given, what is learnt, where it stands."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gristmill.model.documents.batch import FULL, IGNORE, NOISE, Document, best_fit, pack
from gristmill.model.documents.document_writer import DocumentLayout, DocumentWriter
from gristmill.model.documents.paradigms import PARADIGMS, Paradigm
from gristmill.model.documents.picture_grid import PictureGrid
from gristmill.model.documents.segments import Content, ImageSegment, TextSegment
from gristmill.model.documents.tasks import answering, describing, drawing, editing, interleaving
from gristmill.model.documents.vocabulary import (
    DESCRIBE,
    EOS,
    IMAGE,
    IMAGE_END,
    MASK,
    Vocabulary,
    train_text,
)
from gristmill.model.network.configurations import for_paradigm, nano
from gristmill.model.network.transformer import Transformer

GRID = PictureGrid((3, 4), (2, 2))
LAYOUT = DocumentLayout(
    patches=12, latents_per_query=4, latent_channels=5, semantic_width=7, text_block=8
)
TEXT = train_text(["a small red circle", "how many shapes?", "one", "make it green"] * 3, 300)
TASKS = {
    "draw": drawing("a small red circle"),
    "describe": describing("a small red circle"),
    "answer": answering([("how many shapes?", "one"), ("what shape is red?", "star")]),
    "edit": editing("make it green"),
    "tell": interleaving("a red circle"),
    "text": [TextSegment("a red circle", is_target=True, ends=True)],
}


def _writer(paradigm: Paradigm, books: tuple[int, ...] = (16,)) -> DocumentWriter:
    queries = LAYOUT.queries(12) if paradigm.image_objective == "query" else 0
    return DocumentWriter(Vocabulary(TEXT, books, queries), paradigm, LAYOUT)


def _content(seed: int, books: int = 1) -> Content:
    rng = np.random.default_rng(seed)
    return Content(
        GRID,
        codes=rng.integers(0, 16, (3, 4, books)),
        latents=rng.standard_normal((3, 4, 5), np.float32),
        semantic=rng.standard_normal((2, 2, 7), np.float32),
    )


def _write(writer: DocumentWriter, task: str, seed: int = 0) -> Document:
    books = len(writer.vocabulary.codebooks)
    contents = [_content(1, books), _content(2, books)]
    return writer.write(TASKS[task], contents, np.random.default_rng(seed))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", PARADIGMS)
def test_lengths_are_known_beforehand_and_spans_are_spans(name: str, task: str) -> None:
    writer = _writer(PARADIGMS[name], (16, 16))
    document = _write(writer, task)
    assert len(document) == writer.length(TASKS[task], [GRID, GRID])
    assert (document.span[document.attn_mode >= FULL] >= 0).all()
    continuous = np.concatenate([document.latent_idx, document.semantic_idx])
    placed = document.ids[continuous]
    # Queries have ids of their own, and what comes next is drawn from what is there; all other
    # continuous positions have no id.
    bound = PARADIGMS[name].image_objective in ("query", "next-latent")
    assert ((placed == -1) | bound).all()
    assert (document.ids[document.ids < 0] == -1).all()
    assert (document.weight[document.labels == IGNORE] == 0).all()
    assert document.weight.sum() + document.latent_loss.sum() > 0
    places = sum(math.prod(span.places) for span in document.semantic_spans)
    assert places == len(document.semantic_idx)
    assert sum(math.prod(s.grid) for s in document.semantic_spans) == len(document.semantic)


def test_codes_come_one_after_the_other_at_the_position_that_emits_them() -> None:
    writer = _writer(PARADIGMS["ar"])
    document = _write(writer, "draw")
    codes = _content(1).codes
    assert codes is not None
    first = document.ids.tolist().index(IMAGE)
    sides = [writer.vocabulary.side(3), writer.vocabulary.side(4)]
    ids = [*sides, *(codes.reshape(-1) + writer.vocabulary.code_starts[0])]
    assert document.ids[first + 1 : first + 15].tolist() == ids
    # The mark emits the rows, the columns emit the first code, the last code emits nothing.
    assert document.labels[first : first + 15].tolist() == [*ids, IGNORE]
    assert (document.labels[:first] == IGNORE).all() and document.ids[-1] == IMAGE_END
    assert (document.attn_mode == 0).all()


def test_text_is_emitted_by_its_mark_and_ends() -> None:
    writer = _writer(PARADIGMS["ar"])
    document = _write(writer, "describe")
    text = writer.vocabulary.encode("a small red circle")
    assert document.ids[-len(text) - 1 :].tolist() == [*text, EOS]
    assert document.labels[-len(text) - 2 :].tolist() == [*text, EOS, IGNORE]


def test_masked_labels_stay_in_place() -> None:
    document = _write(_writer(PARADIGMS["masked"]), "draw", seed=3)
    masked = document.ids == MASK
    assert masked.any() and ((document.labels != IGNORE) >= masked).all()
    plain = _write(_writer(PARADIGMS["ar"]), "draw")
    span = document.span == 0
    truth = plain.ids[plain.span == 0]
    assert (np.where(masked[span], document.labels[span], document.ids[span]) == truth).all()


@pytest.mark.parametrize("name", ["flow", "flow-semantic", "joint"])
def test_a_noise_copy_comes_before_its_clean_copy_and_shares_its_place(name: str) -> None:
    document = _write(_writer(PARADIGMS[name]), "tell")
    noise = document.latent_idx[document.latent_loss > 0]
    clean = document.latent_idx[document.latent_loss == 0]
    assert (document.attn_mode[noise] == NOISE).all() and (document.attn_mode[clean] == FULL).all()
    assert noise.max() < clean.min()
    assert (document.pos[noise] == document.pos[clean]).all()
    assert (document.latent_t[document.latent_loss == 0] == 0).all()


@pytest.mark.parametrize("name", ["flow", "flow-semantic", "joint", "query"])
def test_no_gradient_leads_from_the_clean_copy_to_the_noise_loss(name: str) -> None:
    paradigm = PARADIGMS[name]
    writer = _writer(paradigm)
    batch = pack([[_write(writer, "tell"), _write(writer, "edit")]], 128)
    config = for_paradigm(
        nano(writer.vocabulary.size), paradigm, latent_channels=5, semantic_width=7
    )
    torch.manual_seed(0)
    model = Transformer(config)
    for weight in model.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.2)
    batch.latent.requires_grad_()
    batch.semantic.requires_grad_()
    tell = batch.doc.reshape(-1)[batch.latent_idx] == 0
    hidden, _ = model.hidden(batch)
    noise = tell & (batch.latent_loss > 0)
    model.velocity(batch, hidden)[noise].square().sum().backward()
    assert batch.latent.grad is not None
    assert bool((batch.latent.grad[noise] != 0).any())
    assert bool((batch.latent.grad[tell & (batch.latent_loss == 0)] == 0).all())
    # Semantic patches of the same document come after the noise; the edit's is another document.
    if batch.semantic.grad is not None:
        assert bool((batch.semantic.grad == 0).all())
    # The clean copy of a source picture, though, is what an edit looks at.
    batch.latent.grad = None
    hidden, _ = model.hidden(batch)
    edited = ~tell & (batch.latent_loss > 0)
    model.velocity(batch, hidden)[edited].square().sum().backward()
    seen = batch.semantic.grad if name == "query" else batch.latent.grad
    assert seen is not None
    if name != "query":
        seen = seen[~tell & (batch.latent_loss == 0)]
    assert bool((seen != 0).any())


def test_no_gradient_leads_from_clean_latents_to_those_before_them() -> None:
    """Each of a row of latents is drawn from those before it alone."""
    paradigm = PARADIGMS["token-flow"]
    writer = _writer(paradigm)
    batch = pack([[_write(writer, "draw")]], 64)
    config = for_paradigm(
        nano(writer.vocabulary.size), paradigm, latent_channels=5, semantic_width=0
    )
    torch.manual_seed(0)
    model = Transformer(config)
    for weight in model.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.2)
    given = batch.latent_loss == 0
    assert torch.equal(batch.latent_idx[given] - 1, batch.latent_idx[~given])
    assert len(batch.latent_t[~given].unique()) == GRID.places
    batch.latent.requires_grad_()
    for place in range(GRID.places):
        batch.latent.grad = None
        hidden, _ = model.hidden(batch)
        model.velocity(batch, hidden)[~given][place].square().sum().backward()
        assert batch.latent.grad is not None
        clean, noisy = batch.latent.grad[given], batch.latent.grad[~given]
        assert bool((clean[:place] != 0).any(dim=1).all()) and not clean[place:].any()
        assert bool(noisy[place].any()) and not noisy[:place].any() and not noisy[place + 1 :].any()


def test_masked_text_has_any_length_in_blocks_behind_clean_ones() -> None:
    writer, words = _writer(PARADIGMS["discrete-diffusion"]), "how many shapes? one " * 6
    text = writer.vocabulary.encode(words)
    block = LAYOUT.text_block
    assert len(text) > 2 * block and len(text) % block
    for count in (len(text), block * (len(text) // block)):
        # The end is learnt, and takes a block of its own if need be.
        said = writer.vocabulary.decode(text[:count])
        ids = writer.vocabulary.encode(said)
        segments = [TextSegment(said, is_target=True, special_token=DESCRIBE, ends=True)]
        document = writer.write(segments, [], np.random.default_rng(4))
        assert len(document) == writer.length(segments)
        blocks = -(-(len(ids) + 1) // block)
        truth = np.array([*ids, *[EOS] * (blocks * block - len(ids))])
        at = 2
        for number in range(blocks):
            here, noisy = slice(at, at + block), truth[number * block :][:block]
            masked = document.ids[here] == MASK
            assert masked.any() and (document.attn_mode[here] == NOISE).all()
            assert (np.where(masked, document.labels[here], document.ids[here]) == noisy).all()
            at += block
            if number + 1 < blocks:
                # The clean copy, where the block stands.
                clean = slice(at, at + block)
                assert (document.ids[clean] == noisy).all()
                assert (document.pos[clean] == document.pos[here]).all()
                assert (document.labels[clean] == IGNORE).all()
                at += block
        assert at == len(document)
        assert np.isclose(document.weight.sum(), LAYOUT.text_weight * np.sqrt(blocks * block))


def test_masked_text_ends_by_opening_a_picture_or_is_cut_off_without_an_end() -> None:
    writer = _writer(PARADIGMS["discrete-diffusion"])
    text = TextSegment("a red circle ", is_target=True)
    before = writer.write(
        [text, ImageSegment(is_target=True)], [_content(1)], np.random.default_rng(0)
    )
    assert IMAGE in before.labels[before.span == 0] or IMAGE in before.ids[before.span == 0]
    # What a document was cut off behind is no end of a text.
    cut = [writer.write([text], [], np.random.default_rng(seed)) for seed in range(8)]
    assert not any(EOS in document.ids or EOS in document.labels for document in cut)
    count = len(writer.vocabulary.encode(text.text))
    rest = slice(1 + count, None)
    assert all((document.ids[rest] == MASK).all() for document in cut)
    assert all((document.labels[rest] == IGNORE).all() for document in cut)
    # What was said is given as it is elsewhere.
    given = writer.write(
        [TextSegment(text.text), ImageSegment(is_target=True)], [_content(1)],
        np.random.default_rng(0),
    )  # fmt: skip
    plain = before.ids[(before.span < 0)]
    assert plain.tolist() == given.ids[given.span < 0].tolist()


def test_packing_keeps_documents_apart_and_loses_nothing() -> None:
    writer = _writer(PARADIGMS["flow-semantic"])
    documents = [_write(writer, task) for task in ("draw", "tell", "describe", "edit")]
    rows = [[documents[0], documents[2]], [documents[1]], [documents[3]]]
    batch = pack(rows, 96)
    assert batch.tokens == sum(map(len, documents))
    for number, row in enumerate(rows):
        at = 0
        for count, document in enumerate(row):
            place = slice(at, at + len(document))
            assert (batch.doc[number, place] == count).all()
            assert (batch.ids[number, place].numpy() == document.ids).all()
            at += len(document)
        assert (batch.doc[number, at:] == -1).all()
    parts = batch.split(2)
    assert [len(part.ids) for part in parts] == [2, 1]
    assert torch.equal(torch.cat([part.latent for part in parts]), batch.latent)
    assert torch.equal(parts[1].latent_idx + 2 * 96, batch.latent_idx[len(parts[0].latent) :])
    for part in parts:
        assert sum(math.prod(span.grid) for span in part.semantic_spans) == len(part.semantic)
    assert [span for part in parts for span in part.semantic_spans] == batch.semantic_spans
    assert torch.equal(torch.cat([part.semantic for part in parts]), batch.semantic)


def test_best_fit_fills_the_smallest_room() -> None:
    assert best_fit([5, 6, 4, 3, 20, 1], 10) == [[0, 3, 5], [1, 2]]


def test_prompts_are_beginnings_of_what_was_learnt() -> None:
    for name in ("ar", "flow", "janus", "query"):
        writer = _writer(PARADIGMS[name])
        for task in ("draw", "describe", "answer", "edit"):
            contents = [_content(1), _content(2)]
            rng = np.random.default_rng(0)
            prompt = writer.write(TASKS[task], contents, rng, prompt=True)
            whole = _write(writer, task)
            for field in ("ids", "pos", "span", "attn_mode", "expert"):
                begin = getattr(whole, field)[: len(prompt)]
                assert (getattr(prompt, field) == begin).all(), (name, task, field)


def test_a_picture_that_is_seen_is_not_learnt() -> None:
    for paradigm in PARADIGMS.values():
        writer = _writer(paradigm)
        document = writer.write(
            [ImageSegment(), TextSegment("x")], [_content(1)], np.random.default_rng(0)
        )
        assert document.weight.sum() == document.latent_loss.sum() == 0


@pytest.mark.parametrize("name", PARADIGMS)
def test_positions_are_those_of_m_rope(name: str) -> None:
    """Text has one number on all axes; a picture (t, t + row, t + column); what follows begins
    behind the largest (Qwen2-VL, section 2.1)."""
    document = _write(_writer(PARADIGMS[name]), "describe")
    pos, plain = document.pos, document.span < 0
    assert (pos[plain] == pos[plain][:, :1]).all()
    # <bos> <image> rows columns: the picture begins at 4.
    assert pos[:4, 0].tolist() == [0, 1, 2, 3]
    inside = pos[~plain & (document.attn_mode < NOISE)][: GRID.places]
    first = GRID.semantic if PARADIGMS[name].image_inputs[0] == "semantic" else GRID.image
    expected = [[4, 4 + r, 4 + c] for r in range(first[0]) for c in range(first[1])]
    assert inside[: len(expected)].tolist() == expected
    # 3 rows and 4 columns: the end of the picture stands at 8.
    end = document.ids.tolist().index(IMAGE_END)
    assert pos[end].tolist() == [8, 8, 8] and pos[end + 1].tolist() == [9, 9, 9]


def test_queries_stand_where_the_first_of_their_latents_does() -> None:
    document = _write(_writer(PARADIGMS["query"]), "draw")
    begin = document.pos[document.ids.tolist().index(IMAGE) + 3]
    # Four latents to a query: a row of the 3 x 4 grid each.
    assert (document.pos[document.span == 0] - begin).tolist() == [[0, 0, 0], [0, 1, 0], [0, 2, 0]]


def test_pictures_of_any_ratio_share_a_row() -> None:
    """Five ratios, each with its sides spelt and its positions within its own grid."""
    grids = [PictureGrid(grid) for grid in ((3, 4), (1, 12), (12, 1), (2, 6), (3, 3))]
    writer, rng = _writer(PARADIGMS["flow"]), np.random.default_rng(0)
    documents = []
    for grid in grids:
        content = Content(grid, latents=rng.standard_normal((*grid.image, 5), np.float32))
        documents.append(writer.write(drawing("a star"), [content], rng))
        assert len(documents[-1]) == writer.length(drawing("a star"), [grid])
    batch = pack([documents], 256)
    assert len(batch.latent) == sum(grid.places for grid in grids)
    for number, grid in enumerate(grids):
        ids = batch.ids[0][batch.doc[0] == number].tolist()
        at = ids.index(IMAGE)
        assert ids[at + 1 : at + 3] == [writer.vocabulary.side(side) for side in grid.image]
        here = batch.pos[0][(batch.doc[0] == number) & (batch.span[0] >= 0)]
        assert (here.amax(dim=0) - here.amin(dim=0)).tolist() == [0, *(n - 1 for n in grid.image)]
