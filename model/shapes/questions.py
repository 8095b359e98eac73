"""Questions and true answers about a scene of shapes, made from its caption alone."""

from __future__ import annotations

from gristmill.model.shapes.parser import read_caption
from gristmill.model.shapes.scenes import SMALL, WIDE, World


def questions(caption: str, world: World = SMALL) -> list[tuple[str, str]]:
    """(question, answer) for count, colour, shape, size and existence; empty for a caption that
    says nothing clear. Only what has one answer is asked."""
    said = read_caption(caption)
    if said is None:
        return []
    things = [name.split(" ") for name in said.names]
    asked = [("how many shapes?", ("one", "two")[len(things) - 1])]
    for i, (size, colour, shape) in enumerate(things):
        others = [other for j, other in enumerate(things) if j != i]
        if all(other[2] != shape for other in others):
            asked.append((f"what colour is the {shape}?", colour))
            asked.append((f"what size is the {shape}?", size))
        if all(other[1] != colour for other in others):
            asked.append((f"what shape is {colour}?", shape))
    asked += _existence(caption, {(colour, shape) for _, colour, shape in things}, world)
    return asked


def wide_questions(caption: str) -> list[tuple[str, str]]:
    """The same of the wide world; as `DataSource.questions` names it."""
    return questions(caption, WIDE)


def _existence(caption: str, there: set[tuple[str, str]], world: World) -> list[tuple[str, str]]:
    """One pair that is there and one that is not, the same for the same caption."""
    every = [(colour, shape) for colour in world.colours for shape in world.shapes]
    at = sum(caption.encode()) % len(every)
    absent = next(pair for pair in every[at:] + every[:at] if pair not in there)
    present = sorted(there)[at % len(there)]
    return [
        (f"is there a {present[0]} {present[1]}?", "yes"),
        (f"is there a {absent[0]} {absent[1]}?", "no"),
    ]


def is_existence(question: str) -> bool:
    """Whether a question asks whether something is there."""
    return question.startswith("is there")
