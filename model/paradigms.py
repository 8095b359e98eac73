"""The paradigms of the surveys, as settings: what is read of a picture, and how one is drawn."""

from __future__ import annotations

from dataclasses import dataclass

from gristmill.model.batch import CAUSAL, FULL
from gristmill.model.choices import require_known


@dataclass(frozen=True, kw_only=True)
class Paradigm:
    """One way to unify understanding and generation."""

    name: str
    # Copies of a picture that is given: codes, clean latents, semantic patches; in this order.
    image_inputs: tuple[str, ...]
    # `attn_mode` of the positions of such copies.
    input_attn_mode: int
    # How a picture is drawn: codes one after the other, codes unmasked in any order, a flow on
    # latents in place, or a flow head on learnable queries.
    image_objective: str
    # How an answer is written: token by token, or unmasked in any order.
    text_objective: str = "next"
    # A noise copy that its span alone sees, followed by clean copies for what comes after.
    clean_copy: bool = False

    @property
    def codes(self) -> bool:
        """Whether pictures are codes on their way out."""
        return self.image_objective in ("next", "masked")


PARADIGMS = {
    paradigm.name: paradigm
    for paradigm in (
        # Chameleon, Emu3.
        Paradigm(
            name="ar", image_inputs=("codes",), input_attn_mode=CAUSAL, image_objective="next"
        ),
        # Show-o.
        Paradigm(
            name="masked", image_inputs=("codes",), input_attn_mode=FULL, image_objective="masked"
        ),
        # MMaDA, UniDisc, Muddit.
        Paradigm(
            name="discrete-diffusion",
            image_inputs=("codes",),
            input_attn_mode=FULL,
            image_objective="masked",
            text_objective="masked",
        ),
        # Transfusion.
        Paradigm(
            name="flow", image_inputs=("latents",), input_attn_mode=FULL, image_objective="flow"
        ),
        # BAGEL, Mogao, JanusFlow.
        Paradigm(
            name="flow-semantic",
            image_inputs=("latents", "semantic"),
            input_attn_mode=FULL,
            image_objective="flow",
            clean_copy=True,
        ),
        # Janus.
        Paradigm(
            name="janus", image_inputs=("semantic",), input_attn_mode=CAUSAL, image_objective="next"
        ),
        # MetaQueries, BLIP3-o.
        Paradigm(
            name="query", image_inputs=("semantic",), input_attn_mode=FULL, image_objective="query"
        ),
    )
}


def find_paradigm(name: str) -> Paradigm:
    """The paradigm of a name; raises `ConfigurationError` for an unknown one."""
    require_known("paradigm", name, PARADIGMS)
    return PARADIGMS[name]
