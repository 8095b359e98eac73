"""The chat template of a tokenizer, rendered with marks that no text can hold.

A template is a program of somebody else's (Jinja), run in the sandbox and with the means that
`transformers` gives it. Its text and that of users come out as one string: marks tell what of it
must not act, where an answer begins and ends, and where a picture stands.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gristmill.errors import ConfigurationError, SampleError

# Noncharacters: they are for use within a program, and no text that is handed on has them.
TEXT_START, TEXT_END = "\ufdd0", "\ufdd1"
"""Around what is text though it reads like a control token."""
ANSWER_START, ANSWER_END = "\ufdd2", "\ufdd3"
"""Around an answer."""
LEARNT_START, LEARNT_END = "\ufdd4", "\ufdd5"
"""Around what the template itself says is generated."""
_PICTURE = "\ufdd6"
_DIGITS = "\ufde0\ufde1\ufde2\ufde3\ufde4\ufde5\ufde6\ufde7\ufde8\ufde9"
_OURS = re.compile("[\ufdd0-\ufdef]")
MARKS = f"[{TEXT_START}-{LEARNT_END}]|{_PICTURE}[{_DIGITS}]+"
"""A pattern of any mark in what was rendered."""


def picture_mark(number: int) -> str:
    """Stands for the picture of that number."""
    return _PICTURE + "".join(_DIGITS[int(digit)] for digit in str(number))


def picture_number(mark: str) -> int:
    """The inverse of `picture_mark`; -1 for another mark."""
    if not mark.startswith(_PICTURE):
        return -1
    return int("".join(str(_DIGITS.index(digit)) for digit in mark[1:]))


def without_marks(text: str) -> str:
    """A user's text without characters that could pass for marks."""
    return _OURS.sub("", text)


class ChatTemplate:
    """A template, and the tokens that it may name (`bos_token` and the like)."""

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        """Raises `ConfigurationError` for what is no template."""
        self.source, self._tokens = source, dict(tokens)
        try:
            self._template = _environment().from_string(source)
        except TemplateError as error:
            raise ConfigurationError(f"the chat template is broken: {error}") from error
        # Whether it says itself what of a conversation is learnt.
        self.says_what_is_learnt = re.search(r"\{%-?\s*generation\s*-?%\}", source) is not None

    @functools.cached_property
    def literals(self) -> str:
        """All text that stands in the template."""
        tree = _environment().parse(self.source)
        texts = [node.data for node in tree.find_all(nodes.TemplateData)]
        texts += [str(n.value) for n in tree.find_all(nodes.Const) if isinstance(n.value, str)]
        return "\0".join(texts)

    @functools.cached_property
    def generation_prompt(self) -> str:
        """What it writes before an answer that is to come; empty if it writes nothing then."""
        asked = [{"role": "user", "content": "a"}]
        try:
            plain = self.render(asked, add_generation_prompt=False)
            prompt = self.render(asked, add_generation_prompt=True)
        except SampleError:
            return ""
        return prompt[len(plain) :] if prompt.startswith(plain) else ""

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        """The conversation as the template writes it. Raises `SampleError` with what the template
        says of a conversation that it refuses."""
        return self._render(messages, in_parts=self._in_parts, prompt=add_generation_prompt)

    @functools.cached_property
    def _in_parts(self) -> bool:
        """Whether contents must come in parts, as templates of some processors have them alone."""
        probe = [{"role": "user", "content": ANSWER_START}]
        for in_parts in (False, True):
            try:
                if ANSWER_START in self._render(probe, in_parts=in_parts, prompt=False):
                    return in_parts
            except SampleError:
                continue
        return False

    def _render(
        self, messages: Sequence[Mapping[str, str]], *, in_parts: bool, prompt: bool
    ) -> str:
        told: list[dict[str, object]] = [dict(message) for message in messages]
        for one in told if in_parts else ():
            one["content"] = [{"type": "text", "text": one["content"]}]
        try:
            return self._template.render(
                messages=told, tools=None, documents=None, add_generation_prompt=prompt,
                **self._tokens,
            )  # fmt: skip
        except (TemplateError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
            said = " ".join(str(error).split())[:80]
            raise SampleError(f"the chat template refuses it: {said}") from error


class _Generation(Extension):
    """`{% generation %}` ... `{% endgeneration %}`: marks around what is within."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """A block whose text is handed to `_marked`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Callable[[], str]) -> str:
        return f"{LEARNT_START}{caller()}{LEARNT_END}"


@functools.lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _today
    return environment


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _today(form: str) -> str:
    """Of no day in particular: rows are the same whenever a training goes on, and what was learnt
    is what is asked later. The day is the one that Llama's templates fall back to."""
    return datetime.datetime(2024, 7, 26).strftime(form)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own escapes what is special in HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
