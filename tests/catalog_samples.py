"""Three rows of each dataset of the catalog that something reads, in its published schema."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from source_files import jpeg, write_tar

ROWS = 3
# Stand for the picture of a row, as Hugging Face holds it, and as plain bytes.
PICTURE, BYTES = object(), object()
# Of a row: its address, its caption, and a page of videos.
URL, SAID, PAGE = "https://a.test/{i}.jpg", "a red barn {i}", "https://www.youtube.com/watch?v=v{i}"

_LAION = {"URL": URL, "TEXT": SAID, "WIDTH": 600, "HEIGHT": 400, "similarity": 0.3}
_LAION_400M = {"SAMPLE_ID": 1, **_LAION, "LICENSE": "?", "NSFW": "UNLIKELY"}
_RELAION = {"url": URL, "caption": SAID, "similarity": 0.3}
_DATACOMP = {
    "uid": "0", "url": URL, "text": SAID, "original_width": 600, "original_height": 400,
    "clip_l14_similarity_score": 0.2, "face_bboxes": [[0.1, 0.1, 0.2, 0.2]], "sha256": "a",
}  # fmt: skip
_TALK = [{"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": SAID}]
_TURNS = {"images": [PICTURE], "texts": [{"user": "What?", "assistant": SAID}]}
_LLAVA = {"id": "{i}", "image": "{i}.jpg", "conversations": _TALK}
_INTERNVID = {
    "YoutubeID": "v{i}", "Start_timestamp": "00:00:17.759", "End_timestamp": "00:00:23.279",
    "Caption": SAID, "UMT_Score": 0.4,
}  # fmt: skip
_MMC4 = {
    "url": "https://a.test/page{i}", "text_list": ["before", SAID],
    "image_info": [{"image_name": "a.jpg", "matched_text_index": 1, "raw_url": URL}],
    "similarity_matrix": [[0.1, 0.3]],
}  # fmt: skip
_REDCAPS = {"image_id": "{i}", "author": "x", "url": URL, "raw_caption": "no", "caption": SAID}
# The line of YFCC100M, by place.
_YFCC = [
    "{i}", "n@1", "x", "2010", "130", "Canon", "no", "a+red+barn+{i}", "barn", "", "", "", "",
    "http://flickr.test/{i}", URL, "Attribution License", "http://cc.test", "1", "1", "a", "b",
    "jpg", "0",
]  # fmt: skip

# Entry -> name of the file -> a row of it; of tars, ending -> member.
SAMPLES: dict[str, tuple[str, Any]] = {
    "allava-4v": ("a.json", _LLAVA),
    "anyedit": (
        "a.parquet",
        {
            "edit": SAID, "edit_type": "color", "input": "before", "output": "after",
            "image_file": PICTURE, "edited_file": PICTURE,
        },
    ),
    "anyword-3m": (
        "data.json",
        {"data_root": "x", "data_list": [{"img_name": "{i}.jpg", "caption": SAID}]},
    ),
    "blip3-kale": ("a.parquet", {"url": URL, "caption": SAID, "cogvlm_caption": "no"}),
    "blip3o-60k": ("a.tar", {"jpg": BYTES, "txt": SAID}),
    "blip3o-pretrain-journeydb": ("a.tar", {"jpg": BYTES, "txt": SAID}),
    "blip3o-pretrain-long-caption": ("a.tar", {"jpg": BYTES, "txt": SAID}),
    "blip3o-pretrain-short-caption": ("a.tar", {"jpg": BYTES, "txt": SAID}),
    "capsfusion-120m": (
        "a.parquet",
        {"image_url": URL, "laion_2b": "no", "laion_coco": "no", "capsfusion": SAID},
    ),
    "cc12m": ("cc12m.tsv", [URL, SAID]),
    "cc3m": ("Train_GCC-training.tsv", [SAID, URL]),
    "coco-captions": (
        "captions.json",
        {
            "images": [{"id": "{i}", "file_name": "{i}.jpg", "coco_url": URL}],
            "annotations": [{"id": "{i}", "image_id": "{i}", "caption": SAID}],
        },
    ),
    "commoncatalog-cc-by": (
        "a.parquet",
        {"jpg": BYTES, "blip2_caption": SAID, "caption": "no", "licensename": "CC BY 2.0"},
    ),
    "coyo-700m": ("a.parquet", {"id": 1, "url": URL, "text": SAID, "image_phash": "a"}),
    "datacomp-1b": ("a.parquet", _DATACOMP),
    "datacomp-commonpool": ("a.parquet", _DATACOMP),
    "datacomp-small": ("a.parquet", _DATACOMP),
    "densefusion-1m": ("a.jsonl", {"image_id": "{i}", "caption": SAID, "url": URL, "width": 6}),
    "diffusiondb": (
        "metadata.parquet", {"image_name": "{i}.png", "prompt": SAID, "part_id": 7, "seed": 1},
    ),
    "docci": (
        "docci_descriptions.jsonlines",
        {"type": "description", "split": "train", "image_file": "{i}.jpg", "description": SAID},
    ),
    "finevision": ("a.parquet", {**_TURNS, "source": "x", "formatting_ratings": [5]}),
    "grit": ("a.parquet", {"id": 1, "url": URL, "caption": SAID, "noun_chunks": [[0.0, 1.0]]}),
    "hd-vila-100m": (
        "a.jsonl",
        {
            "video_id": "v{i}", "url": PAGE,
            "clip": [{"clip_id": "v{i}.1.mp4", "span": ["00:00:17.759", "00:00:23.279"]}],
        },
    ),
    "howto100m": ("HowTo100M_v1.csv", {"video_id": "v{i}", "category_1": "Food", "rank": 1}),
    "hq-edit": (
        "a.parquet",
        {
            "input": "before", "input_image": PICTURE, "edit": SAID, "inverse_edit": "no",
            "output": "after", "output_image": PICTURE,
        },
    ),
    "imgedit": (
        "a.parquet", {"input_images": ["{i}.jpg"], "output_images": ["{i}e.jpg"], "prompt": SAID},
    ),
    "infinity-mm": ("a.tar", {"jpg": BYTES, "json": {"id": "{i}", "conversations": _TALK}}),
    "instructpix2pix": (
        "a.parquet",
        {
            "original_prompt": "before", "original_image": PICTURE, "edit_prompt": SAID,
            "edited_prompt": "after", "edited_image": PICTURE,
        },
    ),
    "internvid": ("a.jsonl", _INTERNVID),
    "internvid-full": ("a.jsonl", _INTERNVID),
    "journeydb": (
        "a.jsonl", {"img_path": "./000/{i}.jpg", "prompt": SAID, "Task2": {"Caption": "no"}},
    ),
    "koala-36m": (
        "Koala_36M_1.csv",
        {
            "videoID": "v{i}_0", "url": PAGE, "timestamp": "['0:00:02.627', '0:00:14.639']",
            "caption": SAID,
        },
    ),
    "laion-400m": ("a.parquet", _LAION_400M),
    "laion-5b": ("a.parquet", {**_LAION, "LANGUAGE": "en", "punsafe": 0.01}),
    "laion-aesthetics": ("a.parquet", {**_LAION, "aesthetic": 7.1}),
    "laion-aesthetics-v2-4.75": ("a.parquet", {**_LAION, "aesthetic": 4.8}),
    "laion-coco": ("a.parquet", {**_LAION, "TEXT": "no", "top_caption": SAID}),
    "laion-face": ("a.parquet", _LAION_400M),
    "laion-high-resolution": ("a.parquet", _LAION),
    "llava-instruct-150k": ("llava_instruct_150k.json", _LLAVA),
    "llava-onevision-data": ("a.parquet", {"id": "{i}", "image": PICTURE, "conversations": _TALK}),
    "llava-pretrain": ("blip_laion_cc_sbu_558k.json", _LLAVA),
    "magicbrush": (
        "a.parquet",
        {
            "img_id": "1", "turn_index": 1, "source_img": PICTURE, "mask_img": PICTURE,
            "instruction": SAID, "target_img": PICTURE,
        },
    ),
    "megalith-10m": ("a.parquet", {"url_highres": URL, "url_source": "https://flickr.test/{i}"}),
    "mint-1t": (
        "a.parquet",
        {"texts": [SAID, None, "after"], "images": [None, URL, None], "url": "https://a.test/{i}"},
    ),
    "miradata": (
        "a.csv",
        {
            "video_id": "v{i}", "start_frame": 1, "short_caption": "no", "dense_caption": SAID,
            "fps": 30, "start_timestep": 5442.4, "end_timestep": 5562.4,
        },
    ),
    "mmc4": ("a.jsonl", _MMC4),
    "mmc4-core-ff": ("a.jsonl", _MMC4),
    "obelics": (
        "a.parquet",
        {
            "images": [None, URL, None], "texts": [SAID, None, "after"],
            "metadata": '[null, {"src": "x", "alt_text": "a"}, null]',
            "general_metadata": '{"url": "https://a.test/page"}',
        },
    ),
    "omniedit": (
        "a.parquet",
        {"src_img": PICTURE, "edited_img": PICTURE, "edited_prompt_list": [SAID, "longer"]},
    ),
    "openvid-1m": ("OpenVid-1M.csv", {"video": "{i}.mp4", "caption": SAID, "fps": 30.0}),
    "panda-70m": (
        "panda70m.csv",
        {
            "videoID": "v{i}", "url": PAGE, "timestamp": "[['0:00:02.627', '0:00:14.639']]",
            "caption": "['a red barn {i}']", "matching_score": "[0.43]",
        },
    ),
    "pd12m": ("a.parquet", {"id": "a", "url": URL, "caption": SAID, "license": "cc0"}),
    "pico-banana-400k": (
        "sft.jsonl", {"open_image_input_url": URL, "text": SAID, "output_image": "edits/{i}.png"},
    ),
    "pixelprose": (
        "a.parquet",
        {"uid": "a", "url": URL, "original_caption": "no", "vlm_caption": SAID, "status": "ok"},
    ),
    "pixmo-cap": ("a.parquet", {"image_url": URL, "caption": SAID, "transcripts": ["no"]}),
    "promptfix": (
        "a.parquet",
        {
            "input_img": PICTURE, "processed_img": PICTURE, "instruction": SAID,
            "auxiliary_prompt": "no",
        },
    ),
    "recap-datacomp-1b": ("a.parquet", {"url": URL, "re_caption": SAID, "org_caption": "no"}),
    "redcaps": (
        "pics_2020.json", {"info": {"url": "https://redcaps.xyz"}, "annotations": [_REDCAPS]},
    ),
    "relaion-art": ("a.parquet", {**_LAION, "aesthetic": 8.1}),
    "relaion-coco": ("a.parquet", {**_LAION, "TEXT": "no", "top_caption": SAID}),
    "relaion1b-nolang": ("a.parquet", _RELAION),
    "relaion2b-en": ("a.parquet", _RELAION),
    "relaion2b-multi": ("a.parquet", _RELAION),
    "relaion400m": ("a.parquet", _LAION_400M),
    "rendered-text": ("a.tar", {"jpg": BYTES, "txt": SAID}),
    "sa-1b": ("sa_000000.tar", {"jpg": BYTES, "json": {"image": {"image_id": 1}}}),
    "sbu-captions": (
        "sbu-captions-all.json",
        {"image_urls": [URL], "user_ids": ["x{i}"], "captions": [SAID]},
    ),
    "seed-data-edit": (
        "a.jsonl", {"source_image": "{i}.jpg", "target_image": "{i}e.jpg", "instruction": SAID},
    ),
    "sharegpt-4o-image": (
        "text_to_image.json", {"input_prompt": SAID, "output_image": "image/{i}.png"},
    ),
    "sharegpt4v": ("sharegpt4v.json", _LLAVA),
    "subjects200k": (
        "a.parquet",
        {
            "image": PICTURE, "collection": "collection_2",
            "description": {"item": "x", "description_0": SAID, "description_1": "no"},
        },
    ),
    "text-to-image-2m": ("a.tar", {"jpg": BYTES, "json": {"prompt": SAID}}),
    "the-cauldron": ("a.parquet", _TURNS),
    "ultraedit": (
        "a.parquet",
        {
            "source_image": PICTURE, "edited_image": PICTURE, "mask_image": PICTURE,
            "source_caption": "before", "target_caption": "after", "edit_prompt": SAID,
        },
    ),
    "vidgen-1m": ("a.json", {"vid": "v{i}-Scene-0001", "caption": SAID}),
    "visual-genome": (
        "region_descriptions.json",
        {"id": "{i}", "regions": [{"region_id": 1, "image_id": 2, "phrase": SAID}]},
    ),
    "vript": (
        "a.jsonl",
        {"meta": {"video_id": "v{i}"}, "data": {"clip_id": "v{i}-1", "caption": {"content": SAID}}},
    ),
    "webvid-10m": ("a.csv", {"videoid": "{i}", "contentUrl": URL, "name": SAID}),
    "wit": (
        "a.tsv",
        {
            "language": "en", "page_url": "https://w.test/{i}", "image_url": URL,
            "page_title": "no", "caption_reference_description": "",
            "caption_attribution_description": SAID, "caption_alt_text_description": "no",
        },
    ),
    "wukong": ("wukong_100m_0.csv", {"url": URL, "caption": SAID}),
    "yfcc100m": ("yfcc100m.tsv", _YFCC),
}  # fmt: skip


def write_sample(folder: Path, sample: tuple[str, Any]) -> Path:
    """A file of three such rows."""
    path = folder / sample[0]
    rows = [_filled(sample[1], i) for i in range(ROWS)]
    ending = path.suffix
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ending == ".tar":
        write_tar(
            path, [(f"{i}.{e}", _member(v)) for i, row in enumerate(rows) for e, v in row.items()]
        )
    elif ending in (".csv", ".tsv"):
        path.write_text(_delimited(rows, "," if ending == ".csv" else "\t"))
    elif ending == ".json":
        path.write_text(json.dumps(_together(rows)))
    elif ending == ".txt":
        path.write_text("".join(f"{row}\n" for row in rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _filled(value: Any, i: int) -> Any:
    if value is PICTURE:
        return {"bytes": jpeg(i), "path": None}
    if value is BYTES:
        return jpeg(i)
    if isinstance(value, str):
        return value.replace("{i}", str(i))
    if isinstance(value, list):
        return [_filled(item, i) for item in value]
    return {k: _filled(v, i) for k, v in value.items()} if isinstance(value, dict) else value


def _member(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json.dumps(value)).encode()


def _delimited(rows: list[Any], sign: str) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=sign, lineterminator="\n")
    if isinstance(rows[0], dict):
        writer.writerow(rows[0])
        rows = [list(row.values()) for row in rows]
    writer.writerows(rows)
    return buffer.getvalue()


def _together(rows: list[Any]) -> Any:
    """One array of the rows; of rows that lie in lists under names, one object."""
    tables = [name for name, value in rows[0].items() if isinstance(value, list)]
    if set(tables) <= {"conversations", "regions"}:
        return rows
    return {**rows[0], **{name: [item for row in rows for item in row[name]] for name in tables}}
