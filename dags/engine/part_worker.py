"""What runs stages on the rows of a part, inside a supervised child or, for a debugger, right
here."""

from __future__ import annotations

import errno
import time
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.dags.engine.mapped_rows import in_order, nothing_mapped, poisoned, store_images
from gristmill.dags.engine.picture_facts import with_picture_facts
from gristmill.dags.engine.rows import RowReader
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.engine.stage_code import is_of_users
from gristmill.dags.graph import BLOB, IMAGE, stores_images
from gristmill.errors import GristmillError
from gristmill.pipelines import heartbeat
from gristmill.pipelines.contract import MapContract, check_columns
from gristmill.pipelines.decode import DecodeError
from gristmill.pipelines.media import MULTI_IMAGE_COLUMNS, PIECE_DIGESTS, Media, explode_pieces
from gristmill.pipelines.stage import Map, Score, Stage

# Libraries whose exceptions say that bytes are not what they should be.
_DECODERS = ("av", "PIL")
_PIECES = (*MULTI_IMAGE_COLUMNS, PIECE_DIGESTS)
# Disk and handles.
_MACHINE_SHORT = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)


@dataclass
class BlockScores:
    """Scores of one block: node -> rows scored, their columns, seconds."""

    rows: dict[str, list[int]]
    tables: dict[str, pa.Table]
    seconds: dict[str, float]


@dataclass(frozen=True)
class RowFailure:
    """Why a row could not be scored."""

    # Type and message, as the ledger has them.
    message: str
    # Type, file and line: the same for rows that fail for the same reason. Empty if no exception
    # tells.
    place: str = ""
    traceback: str = ""
    # The bytes of the row are to blame, whatever the stage is.
    undecodable: bool = False


@dataclass(frozen=True)
class BlockFailure:
    """A Map raised over several rows; nothing of them was written."""

    why: RowFailure


class PartWorker:
    """Holds the stages of one operator, with their models, for as long as its process lives."""

    def __init__(self, layout: RunLayout, nodes: Sequence[str]) -> None:
        self.layout, self.nodes = layout, tuple(nodes)
        self.reader = RowReader(layout)
        self._part: tuple[int, pa.Table] | None = None
        # Stored bytes of rows of that part, as (several pieces?, row) -> its pieces.
        self._held: dict[tuple[bool, int], list[bytes]] = {}
        for node in nodes:
            layout.dag.stage(node).prepare()

    def size(self, part: int) -> int:
        """Number of rows that enter."""
        return len(self._entering(part))

    def uids(self, part: int) -> list[str]:
        """uid of each row that enters, in order."""
        found: list[str] = self._entering(part)["uid"].to_pylist()
        return found

    def take(self, part: int, rows: Sequence[int]) -> pa.Table:
        """Some rows that enter."""
        return self._entering(part).take(pa.array(rows, pa.int64()))

    def groups(self, part: int, rows: Sequence[int]) -> list[list[int]]:
        """Rows that the Map must see together; without such, each alone."""
        stage = self.layout.dag.stage(self.nodes[0])
        if not isinstance(stage, Map) or not stage.group_by:
            return [[row] for row in rows]
        found: dict[str, list[int]] = {}
        keys = self._entering(part)[stage.group_by].to_pylist()
        for row in rows:
            found.setdefault(keys[row], []).append(row)
        return list(found.values())

    def costs(self, part: int) -> tuple[list[int], list[float]]:
        """Decoded bytes of each row, over all ways in which these nodes look at it, and the seconds
        that it may take beyond the deadline of a row."""
        table = self._entering(part)
        cost, seconds = [0] * len(table), [0.0] * len(table)
        for media in self._media():
            cost = [a + b for a, b in zip(cost, media.cost(table), strict=True)]
            seconds = [a + b for a, b in zip(seconds, media.seconds(table), strict=True)]
        return cost, seconds

    def _media(self) -> list[Media]:
        """The ways in which these nodes look at a row, each once."""
        found = [media for node in self.nodes if (media := self._score_stage(node).media)]
        return list(dict.fromkeys(found))

    # -- Map ------------------------------------------------------------------------------------

    def map_rows(
        self, part: int, rows: Sequence[int] | None, path: str, isolate: bool = True
    ) -> Iterator[int | RowFailure | BlockFailure]:
        """Map some rows of a part into `path`.parquet and `path`.blobs; yields how many of them are
        done by now.

        Rows come out in the order in which their origins went in, children in the order yielded.
        With `isolate`, a row alone over which the stage raises is poisoned, and its failure
        yielded; several together write nothing, and their failure comes last.
        """
        stage = self._map_stage()
        table = self._entering(part)
        if rows is not None:
            table = table.take(pa.array(rows, pa.int64()))
        origin = {uid: i for i, uid in enumerate(table["uid"].to_pylist())}
        with_images = stores_images(stage)
        who = stage_at(self.nodes[0], stage)
        done: list[pa.Table] = []
        handed = [n for n in table.column_names if not (stage.takes_bytes and n in BLOB.names)]
        contract = MapContract(
            who,
            stage.writes(),
            stage.forwards_column,
            table.select(handed),
        )
        came: set[str | None] = set()
        with open(f"{path}.blobs", "wb") as blobs:
            for piece in self._pieces(stage, table, part):
                before, at = len(done), blobs.tell()
                for raw in _outcomes(stage, piece) if isolate else stage.map(piece):
                    if isinstance(raw, RowFailure):
                        if len(piece) > 1:
                            yield BlockFailure(raw)
                            return
                        # Children that came before go with it: half a row is none.
                        for out in done[before:]:
                            contract.take_back(out)
                        del done[before:]
                        blobs.seek(at)
                        blobs.truncate()
                        yield raw
                        raw = poisoned(stage, piece, raw.message)
                    out = contract.check(raw)
                    if with_images and is_of_users(stage):
                        out = with_picture_facts(who, stage, out, origin)
                    done.append(store_images(out, blobs) if with_images else out)
                    whence = (*out["uid"].to_pylist(), *out["parent_uid"].to_pylist())
                    came.update(uid for uid in whence if uid in origin)
                    # A row with its bytes counts once all that comes of it is there.
                    yield len(came) - stage.takes_bytes
                if stage.takes_bytes:
                    yield len(came)
        contract.close()
        mapped = pa.concat_tables(done) if done else nothing_mapped(table, stage)
        pq.write_table(in_order(mapped, origin), f"{path}.parquet")

    def write_poisoned(self, part: int, rows: Sequence[int], reason: str, path: str) -> None:
        """Write rows, one or one group, that nothing could be done with, as `map_rows` would."""
        stage = self._map_stage()
        table = poisoned(stage, self.take(part, rows), reason)
        with open(f"{path}.blobs", "wb") as blobs:
            if stores_images(stage):
                table = store_images(table, blobs)
        pq.write_table(table, f"{path}.parquet")

    def _map_stage(self) -> Map:
        stage = self.layout.dag.stage(self.nodes[0])
        assert isinstance(stage, Map)
        return stage

    def _pieces(self, stage: Map, table: pa.Table, part: int) -> Iterator[pa.Table]:
        """The table, or row by row with the stored bytes for a Map that reads them."""
        if not stage.takes_bytes:
            yield table
            return
        place = pa.array([part], pa.int32())
        for row in range(len(table)):
            one = table.slice(row, 1)
            data = self.reader.images(self.nodes[0], one.append_column("part", place))
            names = [name for name in one.column_names if name not in BLOB.names]
            one = one.select(names)
            yield one.append_column(pa.field(IMAGE, pa.binary()), pa.array(data, pa.binary()))

    # -- Score ----------------------------------------------------------------------------------

    def load(self, part: int, rows: Sequence[int]) -> None:
        """Read the stored bytes of some rows, for the calls that come. What goes wrong here is the
        storage's fault and never a row's; after it, no call that scores them reads anything."""
        wanted = set(rows)
        self._held = {key: held for key, held in self._held.items() if key[1] in wanted}
        self._hold(part, rows)

    def _hold(self, part: int, rows: Sequence[int]) -> None:
        """Have the stored bytes of some rows, those that are not held yet."""
        table = self._entering(part)
        for several in {media.multi_image for media in self._media()}:
            missing = [row for row in rows if (several, row) not in self._held]
            chosen = table.take(pa.array(missing, pa.int64()))
            if several:
                owners, pieces = explode_pieces(chosen)
            else:
                owners, pieces = list(range(len(missing))), chosen
            found: list[list[bytes]] = [[] for _ in missing]
            stored = self.reader.images(self.nodes[0], pieces)
            for owner, data in zip(owners, stored, strict=True):
                found[owner].append(data)
            self._held |= {(several, row): f for row, f in zip(missing, found, strict=True)}

    def score_block(
        self, part: int, rows: Sequence[int], without: Mapping[str, Collection[int]]
    ) -> BlockScores:
        """Score some rows with every node, decoding their pictures once.

        `without`: node -> rows that it must not see, because they are poison to it.
        """
        result = BlockScores({}, {}, dict.fromkeys(self.nodes, 0.0))
        self._hold(part, rows)
        table = self._entering(part).take(pa.array(rows, pa.int64()))
        seen: dict[Media, list[Any]] = {}
        for media in self._media():
            start = time.perf_counter()
            looking = [node for node in self.nodes if self._score_stage(node).media is media]
            poison = set.intersection(*[set(without.get(node, ())) for node in looking])
            seen[media] = [None if row in poison else self._look(media, row) for row in rows]
            for node in looking:
                result.seconds[node] += (time.perf_counter() - start) / len(looking)
        for node in self.nodes:
            start = time.perf_counter()
            stage = self._score_stage(node)
            bad = without.get(node, ())
            mine = [i for i, row in enumerate(rows) if row not in bad]
            scores = stage.writes().empty_table()
            if mine:
                things = [seen[stage.media][i] for i in mine] if stage.media else None
                heartbeat.begin(node)
                scores = stage.score(table.take(pa.array(mine, pa.int64())), things)
                scores = check_columns(stage_at(node, stage), stage.writes(), scores, len(mine))
            result.rows[node] = [rows[i] for i in mine]
            result.tables[node] = scores
            result.seconds[node] += time.perf_counter() - start
        return result

    def _look(self, media: Media, row: int) -> Any:
        """What a stage is handed of a row, decoded from the bytes that were loaded."""
        pieces = self._held[media.multi_image, row]
        if media.multi_image:
            return [_decode(media, data) for data in pieces]
        return _decode(media, pieces[0])

    def score_each(
        self, part: int, pairs: Sequence[tuple[int, str]]
    ) -> Iterator[tuple[int, RowFailure | None]]:
        """Score (row, node) pairs one by one, journaling: (index, None) before each, and its
        failure after one that raises."""
        for index, (row, node) in enumerate(pairs):
            yield index, None
            others = {other: (row,) for other in self.nodes if other != node}
            try:
                self.score_block(part, [row], others)
            except GristmillError:
                raise
            except Exception as error:
                yield index, _failure(error)

    def _score_stage(self, node: str) -> Score:
        stage = self.layout.dag.stage(node)
        assert isinstance(stage, Score)
        return stage

    def _entering(self, part: int) -> pa.Table:
        """The rows that enter, with all columns any of the nodes reads; kept for the next call."""
        if self._part is None or self._part[0] != part:
            self._part, self._held = (part, self._read(part)), {}
        return self._part[1]

    def _read(self, part: int) -> pa.Table:
        dag, node = self.layout.dag, self.nodes[0]
        available = dag.columns(node)
        if isinstance(dag.stage(node), Map):
            return self.reader.entering(node, part, available.names)
        columns = {"uid"}
        for name in self.nodes:
            stage = dag.stage(name)
            columns |= set(stage.resolve_columns(available))
            if isinstance(stage, Score) and stage.media is not None:
                place = _PIECES if stage.media.multi_image else BLOB.names
                columns |= {*place, *stage.media.columns}
        wanted = [name for name in available.names if name in columns]
        table = self.reader.entering(node, part, wanted)
        return table.append_column("part", pa.array(np.full(len(table), part, np.int32)))


def _outcomes(stage: Map, piece: pa.Table) -> Iterator[pa.Table | RowFailure]:
    """What a stage makes of some rows; last, what it raised over them."""
    try:
        yield from stage.map(piece)
    except Exception as error:
        if not _is_rows_doing(error):
            raise
        yield _failure(error)


def _is_rows_doing(error: Exception) -> bool:
    """Whether what a stage raised may be about the row: not what the engine says by its own
    exceptions, nor what a machine is short of."""
    short = isinstance(error, OSError) and error.errno in _MACHINE_SHORT
    return not (isinstance(error, GristmillError) or short)


def stage_at(node: str, stage: Stage) -> str:
    """How errors name the stage of a node."""
    return f"node {node!r} ({type(stage).__name__})"


def _decode(media: Media, data: bytes) -> Any:
    """A function of its own, so that tracebacks tell what failed in here."""
    return media.decode(data)


def _failure(error: Exception) -> RowFailure:
    """What a row's exception says. Rows may hold anything, stages may open them by themselves: it
    is the decoders' own exceptions that tell bad bytes from a bad stage."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    own_decoder = any(frame.f_code is _decode.__code__ for frame in frames)
    last = traceback.extract_tb(error.__traceback__)[-1]
    kind = type(error)
    return RowFailure(
        message=f"{kind.__name__}: {error}",
        place=f"{kind.__qualname__} in {last.filename}, line {last.lineno}",
        traceback="".join(traceback.format_exception(error)),
        undecodable=own_decoder
        or isinstance(error, DecodeError)
        or kind.__module__.partition(".")[0] in _DECODERS,
    )
