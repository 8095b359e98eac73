"""Licences by all the names that sources have for them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from gristmill.pipelines.sources.licences import LicenceFacts, spdx

SPELT: dict[str, tuple[str, ...]] = {
    "CC-BY-4.0": (
        "CC BY 4.0", "cc-by-4.0", "CC-BY-4.0", "cc_by_4.0", "CC BY v4.0", "CC BY 4", "BY 4.0",
        "https://creativecommons.org/licenses/by/4.0/", "http://creativecommons.org/licenses/by/4.0",
        "//creativecommons.org/licenses/by/4.0/legalcode", "creativecommons.org/licenses/by/4.0/",
        "https://creativecommons.org/licenses/by/4.0/deed.en",
        "Creative Commons Attribution 4.0 International",
        "Creative Commons Attribution 4.0 International License (CC BY 4.0)",
        " CC  BY 4.0. ",
    ),
    "CC-BY-SA-3.0": (
        "CC BY-SA 3.0", "Attribution-ShareAlike 3.0 Unported (CC BY-SA 3.0)", "cc-by-sa-3.0",
        "Creative Commons Attribution-Share Alike 3.0",
        # SPDX knows no port of Spain.
        "https://creativecommons.org/licenses/by-sa/3.0/es/",
    ),
    "CC-BY-SA-3.0-DE": ("https://creativecommons.org/licenses/by-sa/3.0/de/", "CC BY-SA 3.0 DE"),
    "CC-BY-SA-2.1-JP": ("https://creativecommons.org/licenses/by-sa/2.1/jp/",),
    "CC-BY-NC-2.0": (
        "Attribution-NonCommercial License", "CC BY-NC 2.0",
        "https://creativecommons.org/licenses/by-nc/2.0/",
        "Creative Commons Attribution Non-Commercial 2.0 Generic",
    ),
    "CC-BY-NC-SA-2.0": ("Attribution-NonCommercial-ShareAlike License", "CC BY-NC-SA 2.0"),
    "CC-BY-NC-ND-2.0": ("Attribution-NonCommercial-NoDerivs License",),
    "CC-BY-2.0": ("Attribution License",),
    "CC-BY-ND-2.0": ("Attribution-NoDerivs License",),
    "CC-BY-NC-ND-1.0": ("http://creativecommons.org/licenses/by-nd-nc/1.0/",),
    "CC0-1.0": (
        "CC0", "cc0-1.0", "CC0 1.0 Universal", "CC-0", "Creative Commons Zero (CC0)", "CC Zero",
        "https://creativecommons.org/publicdomain/zero/1.0/", "CC0 1.0 Public Domain Dedication",
    ),
    "CC-PDM-1.0": (
        "Public Domain Mark 1.0", "Public domain", "PDM", "PDM 1.0", "CC-PDM-1.0",
        "https://creativecommons.org/publicdomain/mark/1.0/", "Public Domain Mark",
    ),
    "MIT": ("MIT", "mit license", "The MIT License", "https://opensource.org/licenses/MIT"),
    "Apache-2.0": (
        "Apache 2.0", "apache-2.0", "Apache License, Version 2.0", "Apache License 2.0",
        "http://www.apache.org/licenses/LICENSE-2.0", "https://www.apache.org/licenses/LICENSE-2.0.txt",
    ),
    "BSD-3-Clause": ("BSD-3-Clause", "bsd 3-clause license"),
    "GPL-3.0-only": ("GPL-3.0", "GPLv3", "GNU General Public License v3.0"),
    "GFDL-1.2-only": ("GFDL 1.2", "GNU Free Documentation License 1.2"),
    "ODbL-1.0": ("ODbL", "odbl-1.0", "https://opendatacommons.org/licenses/odbl/1-0/"),
    "OGL-UK-3.0": ("Open Government Licence v3.0", "OGL-UK-3.0"),
    "CDLA-Permissive-2.0": ("cdla-permissive-2.0",),
    "CC-BY-4.0 AND CC-BY-SA-3.0": ("CC BY 4.0, CC BY-SA 3.0", "CC-BY-4.0; CC BY-SA 3.0"),
    "CC-BY-NC-2.0 AND CC0-1.0": ("Attribution-NonCommercial License, CC0",),
}  # fmt: skip
UNKNOWN = (
    None, "", " ", "unknown", "All rights reserved", "CC BY", "cc", "Creative Commons", "CC BY-NC",
    "CC BY-ND-SA 4.0", "CC BY 7.0", "CC NC 2.0", "2.0", "by", "photo by 4.0 studio", "MIT Press",
    "No known copyright restrictions", "United States Government Work", "Getty Images",
    "Attribution 2.0 required", "https://example.com/licenses/by/4.0/",
    "https://creativecommons.org/", "https://creativecommons.org/licenses/sampling+/1.0/",
    "CC BY 4.0, unknown", "public domain in the US only", "stand by me 2.0", "x" * 10_000,
    "CC BY 4.0 except the logo", "https://evil.test/?creativecommons.org/licenses/by/4.0/",
    "Unsplash License", "not public domain",
)  # fmt: skip


@pytest.mark.parametrize("name", SPELT)
def test_spellings(name: str) -> None:
    assert {text: spdx(text) for text in SPELT[name]} == dict.fromkeys(SPELT[name], name)
    assert " AND " in name or spdx(name) == name


@pytest.mark.parametrize("text", UNKNOWN, ids=lambda text: str(text)[:30])
def test_what_is_not_known_has_none(text: str | None) -> None:
    assert spdx(text) is None


def test_a_rule_can_name_it() -> None:
    import duckdb

    said = ["CC BY 4.0", "Attribution-NonCommercial License", None, "all mine", "CC0"]
    table = LicenceFacts()(pa.table({"licence": pa.array(said, pa.string())}))
    assert table.schema.field("licence_spdx").type == pa.string()
    rule = "licence_spdx IS NULL OR licence_spdx LIKE '%NC%'"
    left = duckdb.sql(f'SELECT licence_spdx FROM "table" WHERE NOT ({rule})').fetchall()
    assert left == [("CC-BY-4.0",), ("CC0-1.0",)]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("CC-BY-NC-4.0,CC-BY-4.0", "CC-BY-NC-4.0 AND CC-BY-4.0"),
        ("MIT and Apache-2.0", "MIT AND Apache-2.0"),
        ("https://opensource.org/licenses/mit-0", "MIT-0"),
        ("CC-BY-4.0 OR CC-BY-NC-4.0", None),
        ("CC BY 4.0 / CC BY-NC 4.0", None),
        ("Apache-2.0 or MIT", None),
    ],
)
def test_of_several_none_is_made_of_the_terms_of_all(said: str, expected: str | None) -> None:
    assert spdx(said) == expected
