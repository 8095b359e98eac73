"""Every stage says what its fields and columns are, and is held to it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pytest

from gristmill.errors import ConfigurationError
from gristmill.pipelines import STAGES
from gristmill.pipelines.describe import describe_stage, find_stage, summary_of
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.images.image_facts import ImageFacts
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Score, check_settings, execution, setting

# Numbers that have no natural end and are counted in nothing.
_NUMBERS = ("float", "double", "halffloat", "int", "uint")


@dataclass(frozen=True, kw_only=True)
class Toy(Score):
    """Score by toys. Nobody needs it."""

    # How many toys,
    # on a good day.
    toys: int = setting(3, unit="toys", low=1, high=9)
    mood: str = setting("good", choices=("good", "bad"))
    # Hands at once.
    hands: int = execution(2, low=1)

    def writes(self) -> pa.Schema:
        """One column."""
        return pa.schema([pa.field("fun", pa.float32()), pa.field("uid", pa.string())])

    def describes(self) -> Mapping[str, ColumnFacts]:
        """One column, and one that is not there."""
        return {
            "fun": ColumnFacts("How much fun.", "laughs", low=0, high=10),
            "tears": ColumnFacts("How many tears.", only_with="mood=bad"),
        }


@dataclass(frozen=True, kw_only=True)
class Heir(Toy):
    """Inherits."""

    # Another number of toys.
    toys: int = 5


def test_a_stage_of_anybody_is_described_from_its_class() -> None:
    found = describe_stage(Toy)
    assert (found.shape, found.summary) == ("Score", "Score by toys.")
    toys, mood, hands = found.fields
    assert toys.text == "How many toys, on a good day."
    assert (toys.type, toys.default, toys.limits) == ("int", "3", "toys, 1..9")
    assert (mood.text, mood.limits) == ("", "good | bad")
    assert hands.execution and not toys.execution
    fun, uid, tears = found.columns
    assert (fun.type, fun.meaning, fun.limits) == ("float", "How much fun.", "laughs, 0..10")
    assert uid.meaning.startswith("32 hex digits")
    assert (tears.type, tears.only_with) == ("", "mood=bad")


def test_a_field_declared_again_has_its_own_text_and_others_that_of_the_parent() -> None:
    toys, _, hands = describe_stage(Heir).fields
    assert (toys.text, toys.default, toys.limits) == ("Another number of toys.", "5", "")
    assert hands.text == "Hands at once."


def test_a_stage_is_described_as_it_is_configured() -> None:
    columns = describe_stage(dataclasses.replace(find_stage("ClipScore")(), name="other")).columns  # type: ignore[call-arg]
    assert columns[0].name == "other" and columns[0].limits == "-1..1"


@pytest.mark.parametrize("name", STAGES)
def test_every_field_and_every_column_says_what_it_is(name: str) -> None:
    found = describe_stage(find_stage(name))
    assert found.summary
    assert [field.name for field in found.fields if not field.text] == []
    assert [column.name for column in found.columns if not column.meaning] == []
    unbound = [c.name for c in found.columns if c.type.startswith(_NUMBERS) and not c.limits]
    assert unbound == [], "numbers have a unit, or ends between which they lie"
    written = find_stage(name)().writes().names
    only = find_stage(name)().describes()
    stray = [one for one in only if one not in written and not only[one].only_with]
    assert stray == [], "what is described is written"
    check_settings(find_stage(name)())


def test_a_summary_ends_with_the_sentence() -> None:
    assert summary_of("By CLIP (Zhu et al. 2023, MMC4). The rest.\n\nMore.").endswith("MMC4).")


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Download(encode_quality=101), "Download.encode_quality is 101; it must be 0..100"),
        (Download(retries=-1), "Download.retries is -1; it must be at least 0"),
        (Keep(missing="perhaps"), "Keep.missing is 'perhaps'; choose one of drop, keep"),
    ],
)
def test_a_value_outside_of_what_was_declared_is_refused(stage: Score, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_settings(stage)


def test_range_of_a_column() -> None:
    limits = {column.name: column.limits for column in describe_stage(ImageFacts).columns}
    assert limits["brightness"] == "0..1" and limits["entropy"] == "bits, 0..8"


def test_describing_all_stages_loads_no_torch() -> None:
    code = (
        "import sys; from gristmill.pipelines.describe import describe_stages; "
        "describe_stages(); print([m for m in ('torch', 'ray', 'open_clip') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
