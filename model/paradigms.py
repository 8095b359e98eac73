"""The paradigms of the surveys, as settings: how pictures are seen, and how they are drawn."""

from __future__ import annotations

from dataclasses import dataclass

from gristmill.errors import ConfigurationError
from gristmill.model.batch import CAUSAL, FULL

DRAW = ("next", "masked", "flow", "query")
TEXT = ("next", "masked")


@dataclass(frozen=True, kw_only=True)
class Paradigm:
    """One way to unify understanding and generation."""

    name: str
    # Copies of a picture that is given: codes, clean latents, semantic patches; in this order.
    see: tuple[str, ...]
    # Kind of the positions of such copies.
    see_kind: int
    # How a picture is drawn: codes one after the other, codes unmasked in any order, a flow on
    # latents in place, or a flow head on learnable queries.
    draw: str
    # How an answer is written: token by token, or unmasked in any order.
    text: str = "next"
    # A noise copy that its span alone sees, followed by clean copies for what comes after.
    clean_copy: bool = False

    @property
    def codes(self) -> bool:
        """Whether pictures are codes on their way out."""
        return self.draw in ("next", "masked")


PARADIGMS = {
    paradigm.name: paradigm
    for paradigm in (
        # Chameleon, Emu3.
        Paradigm(name="ar", see=("codes",), see_kind=CAUSAL, draw="next"),
        # Show-o.
        Paradigm(name="masked", see=("codes",), see_kind=FULL, draw="masked"),
        # MMaDA, UniDisc, Muddit.
        Paradigm(
            name="discrete-diffusion", see=("codes",), see_kind=FULL, draw="masked", text="masked"
        ),
        # Transfusion.
        Paradigm(name="flow", see=("latents",), see_kind=FULL, draw="flow"),
        # BAGEL, Mogao, JanusFlow.
        Paradigm(
            name="flow-semantic", see=("latents", "semantic"), see_kind=FULL, draw="flow",
            clean_copy=True,
        ),
        # Janus.
        Paradigm(name="janus", see=("semantic",), see_kind=CAUSAL, draw="next"),
        # MetaQueries, BLIP3-o.
        Paradigm(name="query", see=("semantic",), see_kind=FULL, draw="query"),
    )
}  # fmt: skip


def find_paradigm(name: str) -> Paradigm:
    """The paradigm of a name; raises `ConfigurationError` for an unknown one."""
    if name not in PARADIGMS:
        raise ConfigurationError(f"paradigm {name!r}; choose one of {', '.join(PARADIGMS)}")
    return PARADIGMS[name]
