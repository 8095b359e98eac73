"""The paradigms of the surveys, as settings: what is read of a picture, and how one is drawn."""

from __future__ import annotations

from dataclasses import dataclass

from gristmill.errors import require_known
from gristmill.model.documents.batch import CAUSAL, DRAFT, FULL, NOISE


@dataclass(frozen=True, kw_only=True)
class Paradigm:
    """One way to unify understanding and generation.

    Whatever follows a picture sees it as it is given: a drawn one is repeated so, unless it is at
    once what is seen of it. Then training and sampling have one context.
    """

    name: str
    # Copies of a picture that is given: codes, clean latents, semantic patches; in this order.
    image_inputs: tuple[str, ...]
    # `attn_mode` of the positions of such copies.
    input_attn_mode: int
    # How a picture is drawn: codes or latents one after the other, codes unmasked in any order, a
    # flow on latents in place, or a flow head on learnable queries.
    image_objective: str
    # How an answer is written: token by token, or unmasked in any order.
    text_objective: str = "next"
    # Latents and semantic patches of a place are one position, the sum of both.
    fused: bool = False

    @property
    def codes(self) -> bool:
        """Whether pictures are codes on their way out."""
        return self.image_objective in ("next", "masked")

    @property
    def latents(self) -> bool:
        """Whether pictures are latents, on their way in or out."""
        return not self.codes or "latents" in self.image_inputs

    @property
    def sequential(self) -> bool:
        """Whether a picture is drawn one position after the other."""
        return self.image_objective in ("next", "next-latent")

    @property
    def repeats_drawn(self) -> bool:
        """Whether a drawn picture that something follows is repeated as it is given: noise, masks,
        queries, and codes that are not what is seen, are hidden from it."""
        seen = ("codes",) if self.codes else ("latents",)
        return not (
            self.sequential and self.image_inputs == seen and self.input_attn_mode == CAUSAL
        )

    @property
    def drawn_attn_mode(self) -> int:
        """`attn_mode` of what is drawn."""
        if not self.sequential:
            return NOISE
        return DRAFT if self.repeats_drawn else CAUSAL


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
        ),
        # Janus.
        Paradigm(
            name="janus", image_inputs=("semantic",), input_attn_mode=CAUSAL, image_objective="next"
        ),
        # MetaQueries, BLIP3-o.
        Paradigm(
            name="query", image_inputs=("semantic",), input_attn_mode=FULL, image_objective="query"
        ),
        # Show-o2, TUNA.
        Paradigm(
            name="joint",
            image_inputs=("latents", "semantic"),
            input_attn_mode=FULL,
            image_objective="flow",
            fused=True,
        ),
        # MAR, MMAR, UniFluid.
        Paradigm(
            name="token-flow",
            image_inputs=("latents",),
            input_attn_mode=CAUSAL,
            image_objective="next-latent",
        ),
    )
}


def find_paradigm(name: str) -> Paradigm:
    """The paradigm of a name; raises `ConfigurationError` for an unknown one."""
    require_known("paradigm", name, PARADIGMS)
    return PARADIGMS[name]
