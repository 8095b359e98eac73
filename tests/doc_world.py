"""The folder in which the pages of the documentation are run: photographs, lists, a finished run
with a CLIP of its own, a codec and a model, all tiny."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
import typer.testing
from loopback import serving

from gristmill import cli
from gristmill.dags.engine.execute import RunOptions
from gristmill.dags.engine.supervision import Supervision
from gristmill.dags.recipes.image_text import image_text
from gristmill.dags.session import run_and_report
from gristmill.dags.settings import apply_settings
from gristmill.model.shapes.scenes import caption, draw, make_scene
from gristmill.model.training.filter_network import train_filter_network

PICTURES = 16


def build_place(place: Path) -> None:
    """Everything, below `place`; some seconds."""
    place.mkdir(parents=True)
    scenes = [make_scene(10**6 + i) for i in range(PICTURES)]
    pictures = [draw(scene, 96) for scene in scenes]
    texts = [caption(scene, i) for i, scene in enumerate(scenes)]
    encoded = [cv2.imencode(".jpg", p[:, :, ::-1])[1].tobytes() for p in pictures]
    (place / "photos").mkdir()
    for i, data in enumerate(encoded):
        (place / "photos" / f"{i:02d}.jpg").write_bytes(data)
        (place / "photos" / f"{i:02d}.txt").write_text(texts[i])
    (place / "picture.jpg").write_bytes(encoded[0])
    urls = [f"http://pictures.test/{i}.jpg" for i in range(PICTURES)]
    pq.write_table(pa.table({"url": urls, "caption": texts}), place / "urls.parquet")
    scored = [f"{url},a dog,{i / PICTURES}\n" for i, url in enumerate(urls)]
    (place / "odd.csv").write_text("".join(["link,words,similarity\n", *scored]))
    listed = [f"photos/{i:02d}.jpg,{text}" for i, text in enumerate(texts)]
    (place / "photos.csv").write_text("\n".join(["path,caption", *listed]))
    (place / "videos.csv").write_text("url,caption\nhttp://pictures.test/1.mp4,a dog runs\n")
    with contextlib.chdir(place), serving() as server:
        server.pages |= {f"/{i}.jpg": data for i, data in enumerate(encoded)}
        train_filter_network(pictures, texts, "clip", steps=2, batch_size=8, threads=1)
        settings = [
            f"download.proxy=http://{server.host}",
            "clip.model=local-dir:clip",
            "shards.val_share=0.2",
            "keep.rules.weak caption match=clip_score < quantile(clip_score, 0.1)",
        ]
        dag = apply_settings(image_text(path="urls.parquet"), settings)
        options = RunOptions(runner="local", supervision=Supervision(isolate=False))
        run_and_report(dag, "runs/mine", options, plain=True)
        run_line(
            "gristmill train-codec kmeans --data runs/mine --side 24 --patch 4 --set sizes=[16]"
        )
        run_line(
            "gristmill train nano --data runs/mine --codec codec.safetensors --out checkpoints/x "
            "--steps 2 --rows 2 --row-length 160 --set text_vocabulary=280 --set compile=false"
        )


def run_line(line: str) -> None:
    """Run a command line of ours in this process."""
    words = shlex.split(line, comments=True)
    if words[:3] == ["python", "-m", "gristmill"]:
        words = ["gristmill", *words[3:]]
    assert words[0] == "gristmill", f"only gristmill is run here; mark the block: {line}"
    done = typer.testing.CliRunner().invoke(cli.app, words[1:])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise AssertionError(f"{line}\n{done.output}") from done.exception
    assert done.exit_code == 0, f"{line}\n{done.output}"
