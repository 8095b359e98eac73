"""Chat templates in the shape of published ones, and small tokenizers that have their marks."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram

from gristmill.model.documents.vocabulary import PretrainedText, Vocabulary, train_text

_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_QWEN25 = """
{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first)
        or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
_QWEN3 = """
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and
        not(message.content.startswith('<tool_response>') and
        message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""  # noqa: E501
_LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)
_GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
_SMOLLM3 = (
    "{% for message in messages %}{% if message.role == 'assistant' %}"
    "{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ message.content.lstrip('\n') + '<|im_end|>\n' }}{% endgeneration %}"
    "{% else %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Template; special tokens; added tokens that are not special; bos and eos.
FAMILIES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], str, str]] = {
    "SmolLM2": (_SMOLLM2, _IM, (), "<|im_start|>", "<|im_end|>"),
    "ChatML": (_CHATML, _IM, (), "", "<|im_end|>"),
    "Qwen2.5": (_QWEN25, _IM, ("<tool_response>", "</tool_response>"), "", "<|im_end|>"),
    "Qwen3": (
        _QWEN3, _IM, ("<think>", "</think>", "<tool_response>", "</tool_response>"), "",
        "<|im_end|>",
    ),
    "Llama-3": (
        _LLAMA3, ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        (), "<|begin_of_text|>", "<|eot_id|>",
    ),
    "Mistral": (_MISTRAL, ("<s>", "</s>"), (), "<s>", "</s>"),
    "Mistral v3": (_MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), (), "<s>", "</s>"),
    "Gemma": (
        _GEMMA, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), ("\n\n",), "<bos>",
        "<eos>",
    ),
    "SmolLM3": (_SMOLLM3, _IM, (), "", "<|im_end|>"),
}  # fmt: skip
ENDS = {"Llama-3": "<|eot_id|>", "Gemma": "<end_of_turn>"}
_TEXT = [
    "user assistant system model tool You are a helpful assistant named",
    "What colour is the small red circle? It is red, as you see.\n\nAnd the other one?",
    "[INST] a [/INST] b <|x|> <y> </z>",
]


def _byte_level(marks: tuple[str, ...], added: tuple[str, ...]) -> Tokenizer:
    tokenizer = Tokenizer.from_str(train_text(_TEXT * 3, 420))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    tokenizer.add_tokens([AddedToken(one, special=False, normalized=False) for one in added])
    return tokenizer


def _sentence_pieces(marks: tuple[str, ...]) -> Tokenizer:
    """As SentencePiece has it: a space before a text that comes first, and marks among pieces."""
    letters = sorted({letter for text in _TEXT for letter in text.replace(" ", "▁")} | set("▁<>s/"))
    words = sorted({f"▁{word}" for text in _TEXT for word in text.split()})
    pieces = [("<unk>", 0.0), *((mark, 0.0) for mark in marks)]
    pieces += [(letter, -8.0) for letter in letters] + [(word, -3.0) for word in words]
    tokenizer = Tokenizer(Unigram(pieces, 0, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    return tokenizer


def _llama_pieces(marks: tuple[str, ...]) -> Tokenizer:
    """As Llama 2 and Mistral have them: spaces are put and replaced before text is cut."""
    letters = sorted({letter for text in _TEXT for letter in text.replace(" ", "▁")} | set("▁<>s/"))
    vocab = {"<unk>": 0, **{mark: i + 1 for i, mark in enumerate(marks)}}
    for letter in letters:
        vocab[letter] = len(vocab)
    merges = [("▁", "r"), ("▁r", "e"), ("▁re", "d")]
    for first, second in merges:
        vocab[first + second] = len(vocab)
    tokenizer = Tokenizer(BPE(vocab, merges, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    return tokenizer


TOKENIZERS = {
    "Mistral": lambda marks, _: _sentence_pieces(marks),
    "Mistral v3": lambda marks, _: _llama_pieces(marks),
}


def family(name: str) -> tuple[Vocabulary, Any]:
    """Our vocabulary of a family's tokenizer, and the tokenizer of `transformers`."""
    from transformers import PreTrainedTokenizerFast

    template, marks, added, bos, eos = FAMILIES[name]
    tokenizer = TOKENIZERS.get(name, _byte_level)(marks, added)
    named = {"bos_token": bos, "eos_token": eos}
    named = {key: value for key, value in named.items() if value}
    end = tokenizer.token_to_id(ENDS.get(name, eos))
    pretrained = PretrainedText(
        bos=tokenizer.token_to_id(bos) if bos else None,
        eos=tokenizer.token_to_id(eos),
        ends=(end,),
        chat_template=template,
        named_tokens=named,
    )
    ours = Vocabulary(tokenizer.to_str(), pretrained=pretrained)
    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    theirs.chat_template = template
    return ours, theirs
