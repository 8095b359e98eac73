"""Arrays of one file come back as they were, as views of its bytes."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy

from gristmill.pipelines.array_files import pack_arrays, unpack_arrays

KINDS = (
    np.bool_, np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64,
    np.float16, np.float32, np.float64,
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_and_shape_comes_back(kind: type[np.generic]) -> None:
    arrays = {
        "line": np.arange(5).astype(kind),
        "table": np.arange(6).reshape(2, 3).astype(kind).T,
        "nothing": np.zeros((0, 2), kind),
        "one": np.array(1, kind),
    }
    packed = pack_arrays(arrays)
    for found in (unpack_arrays(packed), safetensors.numpy.load(packed)):
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == kind and found[name].shape == array.shape
            assert np.array_equal(found[name], array)


def test_what_is_read_is_a_view_that_cannot_be_written() -> None:
    found = unpack_arrays(pack_arrays({"a": np.arange(3)}))["a"]
    assert not found.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 7


@pytest.mark.parametrize("cut", [3, 20, -1])
def test_other_bytes_are_an_error(cut: int) -> None:
    packed = pack_arrays({"a": np.arange(30)})
    with pytest.raises(ValueError):
        unpack_arrays(packed[:cut])
