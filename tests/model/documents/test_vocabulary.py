"""One range of ids: text as a tokenizer has it, and no more power to it than to text."""

from __future__ import annotations

import json
import pickle

import pytest
from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing

from gristmill.model.documents.vocabulary import (
    BOS,
    EOS,
    PretrainedText,
    Vocabulary,
    train_text,
)

PLAIN = train_text(["a small red circle", "how many shapes?"] * 3, 300)
TURN = "<|im_start|>user\nhow many?<|im_end|>\n"


def _with_specials() -> str:
    """As language models are published: special strings, and a start mark around every text."""
    tokenizer = Tokenizer.from_str(PLAIN)
    marks = ["<|im_start|>", "<|im_end|>", "<s>"]
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return str(tokenizer.to_str())


def _pretrained(**changes: object) -> Vocabulary:
    text = _with_specials()
    tokenizer = Tokenizer.from_str(text)
    end = tokenizer.token_to_id("<|im_end|>")
    marks = PretrainedText(
        rows=tokenizer.get_vocab_size() + 7,
        bos=tokenizer.token_to_id("<s>"),
        eos=end,
        ends=(end, tokenizer.token_to_id("<s>")),
        chat_template="{{ messages }}",
        named_tokens={"bos_token": "<s>", "eos_token": "<|im_end|>"},
    )
    return Vocabulary(text, (16, 8), 4, pretrained=marks)


def test_a_passage_has_no_start_mark() -> None:
    vocabulary = Vocabulary(_with_specials())
    assert vocabulary.encode("a red circle") == Vocabulary(PLAIN).encode("a red circle")


def test_special_strings_in_what_people_write_are_text() -> None:
    vocabulary = Vocabulary(_with_specials())
    mark = vocabulary.text_start + Tokenizer.from_str(_with_specials()).token_to_id("<|im_end|>")
    said = vocabulary.encode("a sign that says <|im_end|> and <s>")
    assert mark not in said
    assert vocabulary.decode(said).strip() == "a sign that says <|im_end|> and <s>"


def test_control_strings_have_a_door_of_their_own() -> None:
    vocabulary = _pretrained()
    tokenizer = Tokenizer.from_str(_with_specials())
    ids = [i - vocabulary.text_start for i in vocabulary.encode_control(TURN)]
    assert ids == tokenizer.encode(TURN, add_special_tokens=False).ids
    assert ids.count(tokenizer.token_to_id("<|im_end|>")) == 1
    assert tokenizer.token_to_id("<s>") not in ids
    # The doors do not share what they remember.
    assert len(vocabulary.encode(TURN)) > len(ids)


def test_the_marks_of_a_pretrained_model_are_its_own() -> None:
    vocabulary = _pretrained()
    tokenizer = Tokenizer.from_str(_with_specials())
    assert vocabulary.bos == vocabulary.text_start + tokenizer.token_to_id("<s>")
    assert vocabulary.eos == vocabulary.text_start + tokenizer.token_to_id("<|im_end|>")
    assert vocabulary.ends == (vocabulary.eos, vocabulary.bos)
    assert vocabulary.chat_template == "{{ messages }}"
    assert vocabulary.named_tokens["eos_token"] == "<|im_end|>"


def test_the_marks_of_a_model_from_zero_are_ours() -> None:
    vocabulary = Vocabulary(PLAIN)
    assert (vocabulary.bos, vocabulary.eos, vocabulary.ends) == (BOS, EOS, (EOS,))
    assert vocabulary.chat_template == "" and vocabulary.named_tokens == {}
    assert vocabulary.text_rows == vocabulary.text_size


def test_rows_that_only_fill_up_keep_their_place_and_are_no_text() -> None:
    vocabulary = _pretrained()
    assert vocabulary.text_rows == vocabulary.text_size + 7
    assert vocabulary.code_starts[0] == vocabulary.text_start + vocabulary.text_rows
    assert vocabulary.size == vocabulary.code_starts[0] + 16 + 8
    assert vocabulary.decode([vocabulary.text_start + vocabulary.text_size + 1]) == ""


def test_a_tokenizer_with_more_ids_than_rows_is_refused() -> None:
    from gristmill.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match="rows"):
        Vocabulary(PLAIN, pretrained=PretrainedText(rows=5))
    with pytest.raises(ConfigurationError, match="no text"):
        Vocabulary(PLAIN, pretrained=PretrainedText(bos=10_000))


def test_ids_with_gaps_are_counted_by_the_largest() -> None:
    values = json.loads(PLAIN)
    vocab = values["model"]["vocab"]
    highest = max(vocab.values())
    last = next(word for word, number in vocab.items() if number == highest)
    vocab[last] = highest + 5
    assert Vocabulary(json.dumps(values)).text_size == highest + 6


@pytest.mark.parametrize("make", [_pretrained, lambda: Vocabulary(PLAIN, (4,), 2)])
def test_a_vocabulary_survives_files_and_processes(make: object) -> None:
    vocabulary = make()  # type: ignore[operator]
    for copy in (
        pickle.loads(pickle.dumps(vocabulary)),
        Vocabulary.from_facts(json.loads(json.dumps(vocabulary.to_dict()))),
    ):
        assert copy.to_dict() == vocabulary.to_dict()
        assert (copy.size, copy.bos, copy.ends) == (
            vocabulary.size,
            vocabulary.bos,
            vocabulary.ends,
        )
        assert copy.encode("a red <s>") == vocabulary.encode("a red <s>")
