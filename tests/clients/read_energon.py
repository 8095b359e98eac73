"""Megatron Energon: prepare, then load as captioning samples."""

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from common import TARS, report, samples
from megatron.energon import WorkerConfig, get_savable_loader, get_train_dataset

place = Path("energon")
shutil.copytree(TARS / "train", place)
command = [str(Path(sys.executable).parent / "energon"), "prepare", ".", "--non-interactive"]
options = ["--split-ratio", "1.0,0.0,0.0", "--num-workers", "2"]
sample = ["--sample-type", "CaptioningSample", "--field-map", '{"image": "jpg", "caption": "txt"}']
done = subprocess.run(
    [*command, *options, *sample], cwd=place, capture_output=True, text=True, check=False
)
assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

dataset = get_train_dataset(
    str(place), batch_size=None, shuffle_buffer_size=None, max_samples_per_sequence=None,
    worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
)  # fmt: skip
loader = iter(get_savable_loader(dataset))
keys = set()
for _ in range(samples(TARS)):
    one = next(loader)
    assert isinstance(one.caption, str) and one.image.shape[-2:] == (12, 16), one.image.shape
    keys.add(one.__key__)
assert len(keys) == samples(TARS), (len(keys), samples(TARS))
report(version=version("megatron-energon"), read=len(keys))
