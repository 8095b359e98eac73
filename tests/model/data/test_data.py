"""Batches from shards: the same for any number of ranks and workers, from any point on."""

from __future__ import annotations

import dataclasses
import itertools
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from model_world import World, planned
from shape_shards import build_shapes

from gristmill.errors import ConfigurationError, ShardError, TrainingError
from gristmill.model.codecs.patches import KMeansCodec
from gristmill.model.codecs.registry import load_codec, save_codec
from gristmill.model.data.dataloader import Loader, PackedRowBuilder, document_to_read
from gristmill.model.data.first_rows import first_rows
from gristmill.model.data.image_tokenizer import ImageTokenizer
from gristmill.model.data.planner import Planner, RowPlan, StreamConfig
from gristmill.model.data.sample_order import as_numbers
from gristmill.model.data.shard_sources import DataSource, chosen_rows, open_samples
from gristmill.model.data.stream import LaneState, StreamState
from gristmill.model.documents.batch import PackedBatch
from gristmill.model.documents.segments import TextSegment
from gristmill.model.documents.vocabulary import DESCRIBE, DRAW, REPLY
from gristmill.model.training.train_config import TrainConfig
from gristmill.model.training.training_setup import TrainingSetup, make_setup
from gristmill.pipelines.schema import digest_fields
from gristmill.pipelines.shards.verify import verify_shards


def _loader(config: TrainConfig, setup: TrainingSetup | None = None, **options: Any) -> Loader:
    setup = setup or make_setup(config)
    stream = StreamConfig(
        rows_per_step=config.rows_per_step, row_length=config.row_length, seed=config.seed
    )
    return Loader(setup.planner, setup.image_tokenizer, stream, **options)


def _take(loader: Loader, count: int) -> list[PackedBatch]:
    return list(itertools.islice(iter(loader), count))


def _same(first: PackedBatch, second: PackedBatch) -> bool:
    return all(
        torch.equal(getattr(first, field.name), getattr(second, field.name))
        if isinstance(getattr(first, field.name), torch.Tensor)
        else getattr(first, field.name) == getattr(second, field.name)
        for field in dataclasses.fields(first)
    )


@pytest.mark.parametrize("paradigm", ["ar", "flow-semantic"])
def test_a_stream_goes_on_exactly_where_it_stopped(
    world: World, tmp_path: Path, paradigm: str
) -> None:
    config = world.config(tmp_path, paradigm, rows_per_step=20)
    whole = _take(_loader(config), 12)
    for stop in (1, 5, 11):
        first = _loader(config)
        _take(first, stop)
        state = StreamState.from_facts(first.state.to_dict(), "")
        rest = _take(_loader(config, state=state), 12 - stop)
        for expected, found in zip(whole[stop:], rest, strict=True):
            assert _same(expected, found)


def test_tasks_come_with_their_shares(world: World, tmp_path: Path) -> None:
    planner = make_setup(world.config(tmp_path)).planner
    marks = []
    for plan in itertools.chain(*planned(planner, 3000)[0]):
        learnt = [s for s in plan.segments if s.is_target][-1]
        marks.append(learnt.special_token if isinstance(learnt, TextSegment) else DRAW)
    shares = [marks.count(mark) / len(marks) for mark in (DRAW, DESCRIBE, REPLY)]
    assert len(marks) > 2000 and np.allclose(shares, [0.5, 0.25, 0.25], atol=0.04)


def test_ranks_share_the_rows_that_one_would_have(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path, rows_per_step=6)
    alone = _take(_loader(config), 3)
    for size in (2, 3, 4):
        shares = [_take(_loader(config, rank=rank, world=size), 3) for rank in range(size)]
        for step, batch in enumerate(alone):
            for row in range(6):
                mine = shares[row % size][step]
                assert torch.equal(mine.ids[row // size], batch.ids[row])
            if size == 4:
                # The last two ranks have one row less, and an empty one in its place.
                assert len(shares[3][step].ids) == 2 and shares[3][step].rows(1, 2).tokens == 0


def test_a_rank_plans_its_own_rows_alone(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a rank plans does not grow with the number of ranks."""
    planned_rows = []
    drawn = Planner.block

    def counting(self: Planner, state: LaneState) -> tuple[list[RowPlan], LaneState]:
        found = drawn(self, state)
        planned_rows.append((state.lane, len(found[0])))
        return found

    monkeypatch.setattr(Planner, "block", counting)
    _take(_loader(world.config(tmp_path, rows_per_step=6), rank=1, world=3), 3)
    assert {lane for lane, _ in planned_rows} == {1, 4}
    few = sum(count for _, count in planned_rows)
    planned_rows.clear()
    _take(_loader(world.config(tmp_path, rows_per_step=60), rank=1, world=30), 3)
    assert {lane for lane, _ in planned_rows} == {1, 31}
    assert sum(count for _, count in planned_rows) < 2 * few


def test_ranks_put_their_states_together(world: World, tmp_path: Path) -> None:
    """What each knows of its own lanes is what one rank would know, and any number goes on."""
    config = world.config(tmp_path, rows_per_step=6)
    alone = _loader(config)
    whole = _take(alone, 7)
    shares = [_loader(config, rank=rank, world=4) for rank in range(4)]
    for share in shares:
        _take(share, 4)
    together = shares[0].state
    for share in shares[1:]:
        together = together.with_lanes([share.state.lanes[lane] for lane in share.lanes])
    one = _loader(config)
    _take(one, 4)
    assert together == one.state and together.rows == 4 * 6
    for rank in range(2):
        rest = _take(_loader(config, rank=rank, world=2, state=together), 3)
        for expected, found in zip(whole[4:], rest, strict=True):
            assert torch.equal(found.ids, expected.ids[rank::2])


def test_lanes_share_the_samples_out(world: World, tmp_path: Path) -> None:
    """Each sample is met once before any is met again, but for how far lanes are apart."""
    setup = make_setup(world.config(tmp_path, rows_per_step=4))
    planner = setup.planner
    seen: list[tuple[int, int]] = []
    for state in planner.start().lanes:
        lane: list[tuple[int, int]] = []
        while len(lane) < planner.size // 4:
            rows, state = planner.block(state)
            # In the order in which they were drawn.
            plans = sorted((plan for row in rows for plan in row), key=lambda plan: plan.seed)
            lane += [(plan.shard, plan.row) for plan in plans]
        seen += lane[: planner.size // 4]
    assert len(set(seen)) == len(seen) > 100


def test_the_stream_of_an_earlier_version_is_refused(world: World, tmp_path: Path) -> None:
    before: Any = {"block": 3, "row": 1, "cursors": [9], "rows": 2, "too_long": 0, "unusable": 0}
    with pytest.raises(TrainingError, match=r"earlier version .* another order"):
        StreamState.from_facts(before, "state.json")


def test_workers_give_the_same_batches(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path, "flow")
    alone, helped = _loader(config), _loader(config, workers=2)
    for expected, found in zip(_take(alone, 4), _take(helped, 4), strict=True):
        assert _same(expected, found)
    assert alone.state == helped.state


def test_stored_codes_are_those_of_the_pixels(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path)
    plain = dataclasses.replace(config.data[0], url=world.plain)
    stored = _take(_loader(config), 2)
    computed = _take(_loader(dataclasses.replace(config, data=(plain,))), 2)
    for first, second in zip(stored, computed, strict=True):
        # The sets were shuffled alike, so all that could differ is JPEG against drawn pixels.
        assert (first.ids == second.ids).float().mean() > 0.9
        assert torch.equal(first.doc, second.doc)


def test_sources_are_mixed_by_weight_and_filtered_by_where(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path)
    red = dataclasses.replace(config.data[0], where="caption LIKE '%red%'", weight=3.0)
    rest = dataclasses.replace(config.data[0], where="caption NOT LIKE '%red%'", url=world.plain)
    setup = make_setup(dataclasses.replace(config, data=(red, rest)))
    rows, _ = planned(setup.planner)
    plans = [plan for row in rows for plan in row]
    share = np.mean([plan.source == 0 for plan in plans])
    assert 0.68 < share < 0.82
    for plan in plans:
        caption = setup.planner.columns(plan.source, plan.shard, plan.row)["caption"]
        assert ("red" in caption) == (plan.source == 0)


def test_other_peoples_tars_are_read(world: World, tmp_path: Path) -> None:
    source = next(Path(world.plain).glob("train/*.tar"))
    folder = tmp_path / "tars"
    folder.mkdir()
    with tarfile.open(source) as ours, tarfile.open(folder / "theirs-0.tar", "w") as theirs:
        for member in ours:
            if member.name.endswith((".jpg", ".txt")):
                theirs.addfile(member, ours.extractfile(member))
    samples = open_samples(DataSource(url=str(folder)))
    assert samples.counts() == [64]
    assert samples.picture(0, 3).shape[2] == 3
    config = world.config(tmp_path / "out")
    config = dataclasses.replace(
        config, data=(dataclasses.replace(config.data[0], url=str(folder)),)
    )
    assert _take(_loader(config), 1)[0].tokens > 0


def test_a_truncated_tar_is_named(world: World, tmp_path: Path) -> None:
    source = next(Path(world.plain).glob("train/*.tar"))
    whole = source.read_bytes()
    for cut in (30_000, 15_321, 1_024 * 20):
        (tmp_path / "cut.tar").write_bytes(whole[:-cut])
        with pytest.raises(ShardError, match=r"cut\.tar is not a whole tar.*write it again"):
            open_samples(DataSource(url=str(tmp_path)))


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="holds no shards"):
        open_samples(DataSource(url=str(tmp_path)))


def test_more_ranks_than_rows_is_an_error(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path, rows_per_step=2)
    with pytest.raises(ConfigurationError, match=r"2 rows a step for 4 ranks.*--rows 4"):
        _loader(config, world=4)


def test_rows_that_stay_empty_say_how_long_they_should_be(world: World, tmp_path: Path) -> None:
    """A length just too short for two documents wastes half of each row."""
    config = world.config(tmp_path, row_length=512)
    alike = dataclasses.replace(
        config.data[0], tasks={"draw": 1.0}, where="caption LIKE '%left of%'"
    )
    config = dataclasses.replace(config, data=(alike,), guidance_dropout=0.0)
    planner = make_setup(config).planner
    plans, _ = planned(planner)
    lengths = [planner.writer.length(plan.segments, plan.grids) for row in plans for plan in row]
    assert "--row-length" not in first_rows(planner) and "filled to 9" in first_rows(planner)
    wasteful = 2 * min(lengths) - 1
    assert wasteful > max(lengths)
    said = first_rows(make_setup(dataclasses.replace(config, row_length=wasteful)).planner)
    assert f"documents have {min(lengths)} to {max(lengths)} positions" in said
    better = int(re.findall(r"--row-length (\d+) would fill rows to (\d+)%", said)[0][0])
    again = first_rows(make_setup(dataclasses.replace(config, row_length=better)).planner)
    before, after = (int(re.findall(r"filled to (\d+)%", text)[0]) for text in (said, again))
    assert before < 80 <= after


def test_rows_too_short_say_how_long_they_must_be(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"rows have 16; give --row-length \d+"):
        _take(_loader(world.config(tmp_path, row_length=16)), 1)


def test_tasks_without_their_columns_are_an_error(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path)
    source = dataclasses.replace(config.data[0], tasks={"edit": 1.0})
    with pytest.raises(ConfigurationError, match="edit an instruction"):
        _take(_loader(dataclasses.replace(config, data=(source,))), 1)
    source = dataclasses.replace(config.data[0], tasks={"paint": 1.0})
    with pytest.raises(ConfigurationError, match="paint"):
        make_setup(dataclasses.replace(config, data=(source,)))


def test_an_edit_is_learnt_from_the_picture_before_and_the_one_after(
    world: World, tmp_path: Path
) -> None:
    def texts(seed: int) -> dict[str, str]:
        # Every second scene is an edit of the one before it; one names a picture that is not there.
        before = {0: "", 1: digest_fields(str(seed - 1)), 3: "nowhere"}.get(seed % 4, "")
        return {"instruction": f"to {seed}", "source_uid": before}

    made = build_shapes(
        tmp_path / "edits", range(10**7, 10**7 + 40), side=60, texts=texts, val_share=0
    )
    config = world.config(tmp_path)
    source = dataclasses.replace(config.data[0], url=str(made), tasks={"edit": 1.0})
    setup = make_setup(dataclasses.replace(config, data=(source,), row_length=160))
    rows, lanes = planned(setup.planner)
    plans = [plan for row in rows for plan in row]
    assert plans and sum(lane.unusable for lane in lanes) > 0
    builder = PackedRowBuilder(setup.planner.samples, setup.planner.writer, setup.image_tokenizer)
    for plan in plans:
        after = setup.planner.columns(0, plan.shard, plan.row)
        assert len(plan.pictures) == 2 and after["source_uid"] != "nowhere"
        assert (
            setup.planner.samples[0].table(plan.pictures[0][0])["uid"][plan.pictures[0][1]].as_py()
            == (after["source_uid"])
        )
    document = builder.build(document_to_read(setup.planner, plans[0]))
    codes = setup.vocabulary.code_starts[0]
    spans = [document.ids[document.span == span] - codes for span in (0, 1)]
    places = [place[:2] for place in plans[0].pictures]
    assert places[1] == (plans[0].shard, plans[0].row)
    for span, place in zip(spans, places, strict=True):
        assert place is not None
        picture = setup.planner.samples[0].picture(*place)
        expected = setup.image_tokenizer.tokenize([picture])[0].codes
        assert expected is not None and (span == expected.reshape(-1)).all()


def test_a_where_that_is_wrong_or_leaves_nothing_is_an_error(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path)
    for where, message in (("nonsense > 1", "nonsense"), ("caption = 'x'", "leaves no sample")):
        source = dataclasses.replace(config.data[0], where=where)
        with pytest.raises(ConfigurationError, match=message):
            make_setup(dataclasses.replace(config, data=(source,)))


def test_tokens_are_read_from_the_shards_and_are_what_pixels_would_give(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = load_codec(world.latents)
    made = build_shapes(tmp_path / "made", range(10**7, 10**7 + 40), side=60, codec=codec)
    for paradigm, stored in (("ar", world.shards), ("flow", str(made))):
        config = world.config(tmp_path, paradigm)
        source = dataclasses.replace(config.data[0], url=stored)
        setup = make_setup(dataclasses.replace(config, data=(source,)))
        columns = setup.planner.columns(0, 0, 3)
        assert not setup.image_tokenizer.needs_pixels(columns)
        found = setup.image_tokenizer.stored(columns)
        # Stored were those of the picture before it became a JPEG.
        looked = setup.image_tokenizer.tokenize([setup.planner.samples[0].picture(0, 3)])[0]
        if paradigm == "ar":
            assert np.mean(found.codes == looked.codes) > 0.6
        else:
            assert np.abs(found.latents - looked.latents).mean() < 0.5  # type: ignore[operator]
        monkeypatch.setattr(ImageTokenizer, "tokenize", None)
        _take(_loader(dataclasses.replace(config, data=(source,)), setup), 1)
        monkeypatch.undo()


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_shards_of_tokens_alone_train_as_those_with_pictures(
    kind: str, world: World, tmp_path: Path
) -> None:
    codec = load_codec(world.codes)
    made = build_shapes(
        tmp_path / "made", range(10**7, 10**7 + 40), side=60, codec=codec, pictures=False,
        format=kind,
    )  # fmt: skip
    assert verify_shards(str(made)) == []
    names = [path.suffix for path in made.rglob("*") if path.is_file()]
    assert ".jpg" not in names
    if kind == "webdataset":
        with tarfile.open(made / "train" / "00000000.tar") as tar:
            assert {name.rpartition(".")[2] for name in tar.getnames()} == {"json", "txt"}
    else:
        schema = pq.read_schema(made / "train" / "00000000.parquet")
        assert "image" not in schema.names and "image_codes" in schema.names
    whole = build_shapes(
        tmp_path / "whole", range(10**7, 10**7 + 40), side=60, codec=codec, format=kind
    )
    batches = []
    for url in (made, whole):
        config = world.config(tmp_path)
        source = dataclasses.replace(config.data[0], url=str(url))
        batches.append(_take(_loader(dataclasses.replace(config, data=(source,))), 1)[0])
    assert torch.equal(batches[0].ids, batches[1].ids)
    with pytest.raises(ShardError, match="no pictures"):
        open_samples(DataSource(url=str(made))).picture(0, 0)


def test_tokens_of_another_codec_are_made_again(world: World, tmp_path: Path) -> None:
    other = KMeansCodec(sizes=(64,), patch=6)
    other.means.copy_(torch.randn(other.means.shape))
    save_codec(other, str(tmp_path / "other.safetensors"))
    setup = make_setup(world.config(tmp_path, codec=str(tmp_path / "other.safetensors")))
    columns = setup.planner.columns(0, 0, 3)
    assert columns["image_codec"] != other.digest and setup.image_tokenizer.needs_pixels(columns)
    # Shards of others may not say which codec theirs was.
    del columns["image_codec"]
    assert not setup.image_tokenizer.needs_pixels(columns)
    columns["image_codes"] = columns["image_codes"][:7]
    with pytest.raises(ConfigurationError, match="the codec that the shards were tokenized with"):
        setup.image_tokenizer.stored(columns)


def test_several_questions_are_asked_of_one_picture(world: World, tmp_path: Path) -> None:
    for paradigm in ("ar", "discrete-diffusion"):
        config = world.config(tmp_path, paradigm)
        source = dataclasses.replace(config.data[0], tasks={"answer": 1.0}, turns=3)
        planner = make_setup(dataclasses.replace(config, data=(source,))).planner
        plans = [plan for row in planned(planner)[0] for plan in row]
        turns = {
            sum(isinstance(segment, TextSegment) and segment.is_target for segment in plan.segments)
            for plan in plans
        }
        assert turns == {3}
        asked = [
            [s.text for s in plan.segments if isinstance(s, TextSegment)][::2] for plan in plans
        ]
        assert all(len(set(texts)) == len(texts) for texts in asked)


def test_many_sources_in_turn_do_not_read_their_shards_anew(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each keeps what it is among: with one cache for all, thirty sources read at every look-up."""
    reads = []
    own = Planner._table

    def counting(self: Planner, source: int, shard: int) -> pa.Table:
        reads.append((source, shard))
        return own(self, source, shard)

    monkeypatch.setattr(Planner, "_table", counting)
    config = world.config(tmp_path)
    setup = make_setup(dataclasses.replace(config, data=config.data * 30))
    planned(setup.planner, 1000)
    assert len(reads) == len(set(reads)) > 64


def test_a_where_beside_a_vector_of_halves(world: World, tmp_path: Path) -> None:
    """DuckDB takes no table with one; what is asked is asked of the other columns."""
    samples = open_samples(world.config(tmp_path).data[0])

    class WithVectors:
        url = "somewhere"
        counts = staticmethod(samples.counts)

        def table(self, shard: int) -> pa.Table:
            table = samples.table(shard)
            vectors = pa.array([[1.0, 2.0]] * len(table), pa.list_(pa.float16(), 2))
            return table.append_column("image_embedding", vectors)

    found = chosen_rows(WithVectors(), "caption LIKE '%red%'")  # type: ignore[arg-type]
    expected = chosen_rows(samples, "caption LIKE '%red%'")
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(as_numbers(one), as_numbers(other))
    with pytest.raises(ConfigurationError, match="image_embedding"):
        chosen_rows(WithVectors(), "image_embedding IS NULL")  # type: ignore[arg-type]
