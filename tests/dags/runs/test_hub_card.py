"""README.md of a repository: what the Hub reads of our card, in what others wrote."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from gristmill.dags.runs.hub_card import front_matter, readme, split_card
from gristmill.errors import ConfigurationError
from gristmill.pipelines.shards.manifest import Manifest, ShardFact

CARD = "---\nconfigs: []\nlicense: CC-BY-4.0\n---\n\n# A set\n\ntext\n"


def manifest(samples: int = 10, **fields: Any) -> Manifest:
    """Two shards to train and none to validate."""
    shards = [
        ShardFact(name=f"train/0000000{n}.tar", bytes=1, sha256="0" * 64, samples=count)
        for n, count in enumerate((samples - 1, 1))
    ]
    splits = {"train": {"shards": shards}, "val": {"shards": []}}
    found: Any = {"gristmill": 1, "format": "webdataset", "splits": splits, "files": [], **fields}
    return found


def ours(path: str = "", licence: str = "CC-BY-4.0", **fields: Any) -> dict[str, Any]:
    return front_matter({"license": licence}, manifest(**fields), path)


@pytest.mark.parametrize(
    ("licence", "said"),
    [
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("CC BY-SA 4.0", {"license": "cc-by-sa-4.0"}),
        ("mit", {"license": "mit"}),
        ("Terms of Example, Inc.", {"license": "other", "license_name": "terms-of-example-inc."}),
        ("", {}),
    ],
)
def test_licences_by_the_names_that_the_hub_knows(licence: str, said: dict[str, str]) -> None:
    found = ours(licence=licence)
    assert {name: found[name] for name in found if name.startswith("license")} == said


@pytest.mark.parametrize(
    ("samples", "said"),
    [(2, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**13, "n>1T")],
)
def test_sizes(samples: int, said: str) -> None:
    assert ours(samples=samples)["size_categories"] == [said]


@pytest.mark.parametrize(
    ("media", "task"),
    [("image", "text-to-image"), ("video", "text-to-video"), ("edit", "image-to-image"),
     ("document", "image-text-to-text"), ("frames", "text-to-video")],
)  # fmt: skip
def test_tasks(media: str, task: str) -> None:
    assert task in ours(media=media)["task_categories"]


def test_splits_that_have_shards_by_pattern_or_one_by_one_among_others() -> None:
    (config,) = ours("a/b")["configs"]
    data = {"split": "train", "path": "a/b/train/*.tar"}
    assert config == {"config_name": "a-b", "data_files": [data]}
    names = ["a/b/train/00000000.tar", "a/b/train/00000001.tar"]
    for strangers, path in (
        (["a/b/train/old.tar"], names),
        (["a/b/train/old.txt", "train/old.tar", "a/b/train/deep/old.tar"], data["path"]),
    ):
        (config,) = front_matter({}, manifest(), "a/b", strangers)["configs"]
        assert config["data_files"] == [{"split": "train", "path": path}]


def test_a_card_put_where_there_is_none_stays_as_it_is_the_second_time() -> None:
    for there in (None, "", "---\n---\n", "---\nlicense: mit\n---\n"):
        text = readme(there, "x", CARD, ours(), "")
        meta, body = split_card(text, "x")
        assert meta["license"] == "cc-by-4.0" and "# A set" in body
        assert text.startswith("---\n") and yaml.safe_load(text.split("---\n")[1]) == meta
        assert readme(text, "x", CARD, ours(), "") == text


def test_what_others_wrote_stays() -> None:
    there = (
        "---\r\npretty_name: Mine\r\nlanguage: [de]\r\ntask_categories: [other]\r\n"
        "size_categories: [n<1K]\r\nlicense: other\r\nlicense_name: mine\r\n"
        "configs:\r\n- config_name: extra\r\n  data_files: extra/*.csv\r\n"
        "- config_name: default\r\n  default: true\r\n  data_files: old/*.tar\r\n---\r\n"
        "# My own words ä\r\n"
    )
    text = readme(there, "x", CARD, ours(samples=5000), "")
    meta, body = split_card(text, "x")
    assert body.index("My own words ä") < body.index("# A set")
    assert (meta["pretty_name"], meta["language"]) == ("Mine", ["de"])
    assert meta["task_categories"] == ["other"] and meta["size_categories"] == ["1K<n<10K"]
    assert meta["license"] == "cc-by-4.0" and "license_name" not in meta
    assert [config["config_name"] for config in meta["configs"]] == ["extra", "default"]
    assert meta["configs"][1]["default"] and meta["configs"][1]["data_files"][0]["split"] == "train"
    # Words put around ours, and another card in the place of ours.
    around = text + "\nafterword\n"
    other = readme(around, "x", CARD.replace("# A set", "# Another"), ours(samples=5000), "")
    assert "afterword" in other and "# Another" in other and "# A set" not in other
    assert "My own words ä" in other


def test_sets_at_several_paths_share_a_readme() -> None:
    text = readme(None, "x", CARD, ours(), "")
    both = readme(text, "x", CARD.replace("A set", "B set"), ours("b", licence="mit"), "b")
    meta, body = split_card(both, "x")
    assert "# A set" in body and "# B set" in body and meta["license"] == "cc-by-4.0"
    assert [config["config_name"] for config in meta["configs"]] == ["default", "b"]
    assert readme(both, "x", CARD, ours(), "") == both


@pytest.mark.parametrize("front", ["a: [", "- 1\n a: 2", "a: b: c"])
def test_front_matter_that_is_no_yaml_is_not_thrown_away(front: str) -> None:
    with pytest.raises(ConfigurationError, match=r"owner/set/README\.md has front matter"):
        readme(f"---\n{front}\n---\n", "owner/set/README.md", CARD, ours(), "")


@pytest.mark.parametrize("front", ["text", "[1, 2]", "configs: none", "configs: [1]"])
def test_front_matter_of_another_shape(front: str) -> None:
    meta, _ = split_card(readme(f"---\n{front}\n---\n", "x", CARD, ours(), ""), "x")
    assert [config["config_name"] for config in meta["configs"]] == ["default"]
