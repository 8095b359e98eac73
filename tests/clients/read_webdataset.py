"""webdataset, decoded."""

import webdataset
from common import TARS, files, report, samples

found = list(
    webdataset.WebDataset(files(TARS, "tar"), shardshuffle=False)
    .decode("pil")
    .to_tuple("jpg", "txt", "json", "__key__")
)
assert len(found) == samples(TARS), (len(found), samples(TARS))
for image, text, facts, key in found:
    assert image.size == (16, 12) and facts["uid"] == key and facts["caption"] == text
report(
    version=webdataset.__version__ if hasattr(webdataset, "__version__") else "?", read=len(found)
)
