"""Captions cleaned, masked, and their language found."""

from __future__ import annotations

import pyarrow as pa
import pytest
from memory_workspace import MemoryWorkspace, run_global

from gristmill.errors import ConfigurationError
from gristmill.pipelines.captions.caption_language import CaptionLanguage
from gristmill.pipelines.captions.clean_captions import CleanCaptions, mend
from gristmill.pipelines.captions.pii import holds, mask
from gristmill.pipelines.keep import Keep


@pytest.mark.parametrize(
    ("broken", "meant"),
    [
        ("the sunâ€™s rays", "the sun’s rays"),
        ("Tom &amp; Jerry &lt;3", "Tom & Jerry <3"),
        ("cafe\u0301", "café"),
        ("zero\u200bwidth\ufeff and\x00 control\x07", "zerowidth and control"),
        ("  many\t\tspaces \n here ", "many spaces here"),
        ("ＦＵＬＬ width", "FULL width"),
        ("a \u201cquote\u201d stays", "a \u201cquote\u201d stays"),
        ("👩\u200d🚀 stays whole", "👩\u200d🚀 stays whole"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("x < y and a & b", "x < y and a & b"),
        ("plain", "plain"),
    ],
)
def test_mend(broken: str, meant: str) -> None:
    assert mend(broken) == meant


def test_the_original_is_kept_where_it_changed() -> None:
    table = pa.table({"uid": ["a", "b", "c"], "caption": ["a  dog", "a cat", None]})
    found = CleanCaptions()(table)
    assert found["caption"].to_pylist() == ["a dog", "a cat", None]
    assert found["caption_original"].to_pylist() == ["a  dog", None, None]
    assert found["uid"].to_pylist() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to jane.doe+x@mail.example.co.uk now", "write to <EMAIL> now"),
        ("call 555-123-4567 or +44 20 7946 0958", "call <PHONE> or <PHONE>"),
        ("Tel: (020) 7946 0958", "Tel: <PHONE>"),
        ("card 4111 1111 1111 1111, exp 12/27", "card <CARD>, exp 12/27"),
        ("card 4111 1111 1111 1112 is none", "card 4111 1111 1111 1112 is none"),
        ("server 192.168.0.1 and 2001:db8::8a2e:370:7334", "server <NETWORK> and <NETWORK>"),
        ("at 10:30:15 version 1.2.3, ISBN 978-3-16-148410-0", None),
        ("built 1999-2004 for 12,500 people, route 66, 16:9", None),
        ("@handle and user at mail dot com", None),
    ],
)
def test_masks(text: str, masked: str | None) -> None:
    assert mask(text, ("email", "card", "phone", "network"))[0] == (masked or text)


def test_masked_in_the_column_and_counted() -> None:
    table = pa.table({"caption": ["a@b.com, c@d.org", "nothing"]})
    found = CleanCaptions(mask=("email",))(table)
    assert found["caption"].to_pylist() == ["<EMAIL>, <EMAIL>", "nothing"]
    assert found["caption_masked"].to_pylist() == [2, 0]
    assert found["caption_original"].to_pylist() == ["a@b.com, c@d.org", None]
    assert holds("a@b.com", "email") and not holds("a@b", "email")


def test_unknown_kind() -> None:
    with pytest.raises(ConfigurationError, match="choose one of email"):
        CleanCaptions(mask=("shoe size",)).check()


SAID = {
    "en": ["a dog running on the beach at sunset", "two people sit at a wooden table"],
    "de": ["ein Hund läuft bei Sonnenuntergang am Strand", "zwei Leute sitzen am Tisch"],
    "fr": ["un chien qui court sur la plage", "deux personnes assises à une table"],
    "es": ["un perro corriendo por la playa", "dos personas sentadas en una mesa"],
    "ru": ["собака бежит по пляжу", "два человека сидят за столом"],
    "ja": ["浜辺を走る犬", "木のテーブルに座る二人"],
    "zh": ["一只狗在海滩上奔跑", "两个人坐在木桌旁"],
    "ko": ["해변을 달리는 개", "나무 탁자에 앉은 두 사람"],
    "pl": ["pies biegnący po plaży", "dwoje ludzi siedzi przy stole"],
    "ar": ["كلب يجري على الشاطئ", "شخصان يجلسان على الطاولة"],
}


def test_languages_of_short_captions() -> None:
    texts = [(code, text) for code, lines in SAID.items() for text in lines]
    found = CaptionLanguage()(pa.table({"caption": [text for _, text in texts]}))
    right = [
        code == said
        for (code, _), said in zip(texts, found["caption_language"].to_pylist(), strict=True)
    ]
    assert sum(right) >= 19
    assert min(found["caption_language_confidence"].to_pylist()) > 0


def test_no_letters_no_language_and_tokens() -> None:
    found = CaptionLanguage()(pa.table({"caption": ["123 !!", None, "", "a photo of a cat"]}))
    assert found["caption_language"].to_pylist()[:3] == [None, None, None]
    assert found["caption_clip_tokens"].to_pylist() == [4, 0, 0, 5]


def test_chosen_languages_only() -> None:
    texts = ["red vintage car", "rotes Auto", "the sunset"]
    found = CaptionLanguage(languages=("en", "de"))(pa.table({"caption": texts}))
    assert found["caption_language"].to_pylist() == ["en", "de", "en"]
    with pytest.raises(ConfigurationError, match="ISO 639-1"):
        CaptionLanguage(languages=("english",)).check()


def test_a_threshold_for_each_language(tmp_path: object) -> None:
    rows = pa.table(
        {
            "uid": ["a", "b", "c", "d"], "image_id": ["a", "b", "c", "d"],
            "row": pa.array([0, 1, 2, 3], pa.int64()),
            "caption_language": ["en", "en", "de", "de"],
            "clip_score": pa.array([0.27, 0.29, 0.25, 0.27], pa.float32()),
        }
    )  # fmt: skip
    rule = "clip_score < CASE caption_language WHEN 'en' THEN 0.28 ELSE 0.26 END"
    stage = Keep(rules={"weak for its language": rule})
    found = run_global(stage, MemoryWorkspace([rows], tmp_path))  # type: ignore[arg-type]
    assert found["verdict"].to_pylist() == ["dropped", "kept", "dropped", "kept"]
