"""open_clip_train's own loader of WebDataset shards, sizes.json included."""

import argparse

import open_clip
from common import TARS, report, samples
from open_clip_train.data import get_dataset_size, get_wds_dataset

shards = str(TARS / "train" / "{00000000..%08d}.tar")
last = len(list((TARS / "train").glob("*.tar"))) - 1
shards = shards % last
assert get_dataset_size(shards) == (samples(TARS), last + 1), get_dataset_size(shards)
_, _, transform = open_clip.create_model_and_transforms("RN50", pretrained=None)
arguments = argparse.Namespace(
    train_data=shards, val_data=shards, train_num_samples=None, val_num_samples=None, seed=0,
    train_data_upsampling_factors=None, dataset_resampled=False, batch_size=5, workers=0,
    world_size=1, distributed=False,
)  # fmt: skip
data = get_wds_dataset(
    arguments, transform, is_train=False, tokenizer=open_clip.get_tokenizer("RN50")
)
read = 0
for images, texts in data.dataloader:
    assert images.shape[1:] == (3, 224, 224) and texts.shape[1] == 77
    read += len(images)
assert read == samples(TARS), (read, samples(TARS))
report(version=open_clip.__version__, read=read)
