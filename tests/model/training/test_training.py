"""Every paradigm with every kind of experts: the loss falls, the sampler runs, a stop leaves no
trace."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_tars import Members, members_of, write_tars
from model_world import World, losses_before_and_after

from gristmill.errors import ConfigurationError, ShardError, TrainingError
from gristmill.model import load
from gristmill.model.checkpoints import checkpoint
from gristmill.model.data.shard_sources import DataSource
from gristmill.model.documents.paradigms import PARADIGMS
from gristmill.model.sampling.decoding import Sampling
from gristmill.model.shapes.scenes import draw, make_scene
from gristmill.model.training.train import train
from gristmill.model.training.train_config import TrainConfig
from gristmill.model.training.train_log import TrainLog, read_log, read_lost

Make = Callable[..., TrainConfig]


def _quiet(config: TrainConfig) -> TrainLog:
    return TrainLog(config.out, quiet=True)


def _curve(folder: str) -> list[tuple[float, float]]:
    return [(line["loss"], line["grad_norm"]) for line in read_log(folder)]


@pytest.mark.parametrize("experts", ["dense", "mot", "moe"])
@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_it_learns_resumes_and_samples(config: Make, paradigm: str, experts: str) -> None:
    whole = config(paradigm, experts=experts, rate=1e-2, save_every=9)
    train(whole, _quiet(whole))
    before, after = losses_before_and_after(whole)
    assert after < 0.85 * before
    stopped = dataclasses.replace(whole, out=whole.out + "-stopped")
    there = "checkpoints/step-00000009"
    shutil.copytree(f"{whole.out}/{there}", f"{stopped.out}/{there}")
    shutil.copy(f"{whole.out}/tokenizer.json", stopped.out)
    train(stopped, _quiet(stopped))
    assert _curve(stopped.out) == _curve(whole.out)[9:]
    model = load(stopped.out)
    drawn = model.generate(["a small red circle", ""], Sampling(steps=3, guidance=2.0))
    assert [picture.shape for picture in drawn] == [(24, 24, 3)] * 2
    pictures = [draw(make_scene(i), 50) for i in range(3)]
    few = Sampling(temperature=0, longest=4, steps=4)
    assert (
        len(model.describe(pictures, few)) == len(model.ask(pictures, ["how many?"] * 3, few)) == 3
    )
    assert model.edit(pictures[:1], ["make it green"], Sampling(steps=2))[0].shape == (24, 24, 3)


def test_factorised_codes_train_and_sample(config: Make, world: World) -> None:
    plain = dataclasses.replace(config().data[0], url=world.plain)
    for paradigm in ("ar", "masked"):
        two = config(paradigm, codec=world.two_books, data=(plain,), row_length=128, steps=3)
        two = dataclasses.replace(two, out=two.out + paradigm)
        train(two, _quiet(two))
        assert load(two.out).generate("a star", Sampling(steps=2))[0].shape == (24, 24, 3)


@pytest.mark.parametrize("paradigm", ["ar", "janus"])
def test_pictures_in_line_train_and_sample(config: Make, paradigm: str) -> None:
    line = config(paradigm, picture_positions="line", rate=1e-2)
    train(line, _quiet(line))
    before, after = losses_before_and_after(line)
    assert after < 0.85 * before
    model = load(line.out)
    assert model.bundle.layout.in_line
    assert model.generate("a star", Sampling(steps=2))[0].shape == (24, 24, 3)
    shown = [draw(make_scene(0), 50)]
    assert len(model.describe(shown, Sampling(temperature=0, longest=4))) == 1


def test_positions_that_a_paradigm_has_not_are_refused(config: Make) -> None:
    line = config("flow", picture_positions="line")
    with pytest.raises(ConfigurationError, match="picture_positions=grid"):
        train(line, _quiet(line))


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_one_batch_is_learnt_by_heart(config: Make, paradigm: str) -> None:
    from gristmill.model.training.train import Trainer, steps_of
    from gristmill.model.training.training_setup import make_setup

    small = config(paradigm, rows_per_step=1, rate=1e-2)
    setup = make_setup(small)
    batch = next(steps_of(small, setup))
    model = Trainer(small, setup, torch.device("cpu")).model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses: list[tuple[float, float]] = []
    for _ in range(60):
        found = model(batch)
        text = found.text / batch.weight.sum()
        flow = found.flow / batch.latent_loss.sum().clamp_min(1)
        optimizer.zero_grad()
        (text + 3 * flow).backward()
        optimizer.step()
        losses.append((float(text.detach()), float(flow.detach())))
    (first_text, first_flow), (last_text, last_flow) = losses[0], losses[-1]
    assert last_text < 0.1 * first_text
    # The noise of one batch, too.
    assert last_flow <= 0.4 * first_flow


def test_accumulated_rows_are_one_step(config: Make) -> None:
    for paradigm in ("ar", "flow-semantic"):
        once = config(paradigm, steps=3)
        once = dataclasses.replace(once, out=once.out + paradigm)
        parts = dataclasses.replace(once, micro_rows=1, out=once.out + "-micro")
        train(once, _quiet(once))
        train(parts, _quiet(parts))
        assert np.allclose(_curve(once.out), _curve(parts.out), rtol=2e-4)


def test_muon_and_checkpointing_learn(config: Make) -> None:
    from gristmill.model.network import configurations

    muon = config(optimiser="muon", rate=2e-2, schedule="wsd")
    train(muon, _quiet(muon))
    before, after = losses_before_and_after(muon)
    assert after < 0.85 * before
    plain = configurations.nano(50)
    assert dataclasses.replace(plain, checkpointing=True) != plain


@pytest.mark.drill
def test_two_ranks_train_as_one_and_one_goes_on_from_two(
    config: Make, world: World, tmp_path: Path
) -> None:
    # Muon needs whole matrices, of which each rank holds a part.
    alone = config(steps=4, optimiser="muon", rate=2e-2)
    train(alone, _quiet(alone))
    both = dataclasses.replace(alone, out=str(tmp_path / "both"))
    # With another number of steps the rate must stay the same. Every twentieth picture is broken.
    tars = members_of(world.plain)
    broken: dict[str, Members | None] = {
        f"{i:04d}.jpg": [(f"{i:04d}.jpg", b"!")] for i in range(0, 200, 20)
    }
    data = DataSource(url=write_tars(tmp_path / "tars", tars, broken))
    pair = config(steps=8, save_every=4, schedule="constant", data=(data,), max_lost=0.2)
    pair = dataclasses.replace(pair, out=str(tmp_path / "pair"))
    single = dataclasses.replace(pair, out=str(tmp_path / "single"))
    train(single, _quiet(single))
    _torchrun([both, dataclasses.replace(pair, steps=4)], tmp_path)
    assert np.allclose(_curve(both.out), _curve(alone.out), rtol=1e-3)
    assert np.allclose(_curve(pair.out), _curve(single.out)[:4], rtol=1e-4)
    train(pair, _quiet(pair))
    assert np.allclose(_curve(pair.out), _curve(single.out), rtol=1e-3)
    rows = [
        [(line["rows"], line["lost"]) for line in read_log(out)] for out in (pair.out, single.out)
    ]
    assert rows[0] == rows[1]
    assert read_lost(pair.out) == read_lost(single.out) != []


def _torchrun(configs: Sequence[TrainConfig], folder: Path) -> None:
    """One training after the other, on two ranks: their start takes longest."""
    values = folder / "config.json"
    values.write_text(json.dumps([config.to_dict() for config in configs]))
    script = folder / "ranks.py"
    script.write_text(
        "import json, sys, torch\n"
        "from gristmill.model.training.train import train\n"
        "from gristmill.model.training.train_config import TrainConfig\n"
        "torch.set_num_threads(1)\n"
        "for values in json.load(open(sys.argv[1])):\n"
        "    train(TrainConfig.from_dict(values))\n"
        "torch.distributed.destroy_process_group()\n"
    )
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(script), str(values),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.drill
def test_a_kill_at_any_moment_leaves_the_same_curve(config: Make, tmp_path: Path) -> None:
    whole = config(steps=10, save_every=2)
    train(whole, _quiet(whole))
    killed = dataclasses.replace(whole, out=str(tmp_path / "killed"))
    # Dies in the middle of writing a checkpoint, then between two steps.
    for name, left in (("checkpoint.json.dump", [2, 4]), ("Trainer._update", [4, 6])):
        values = tmp_path / "config.json"
        values.write_text(json.dumps(killed.to_dict()))
        code = (
            "import json, os, sys\n"
            "from gristmill.model.checkpoints import checkpoint\n"
            "from gristmill.model.training import train\n"
            "from gristmill.model.training.train_config import TrainConfig\n"
            "calls = []\n"
            "def dying(f, after):\n"
            "    def call(*a, **k):\n"
            "        calls.append(1)\n"
            "        if len(calls) > after: os._exit(9)\n"
            "        return f(*a, **k)\n"
            "    return call\n"
            + (
                "import types\n"
                "stub = dying(json.dump, 2)\n"
                "checkpoint.json = types.SimpleNamespace(dump=stub, load=json.load)\n"
                if "dump" in name
                else "train.Trainer._update = dying(train.Trainer._update, 3)\n"
            )
            + "train.train(TrainConfig.from_dict(json.load(open(sys.argv[1]))))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(values)], capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 9, done.stderr[-2000:]
        assert checkpoint.steps(killed.out + "/checkpoints") == left
    train(killed, _quiet(killed))
    assert _curve(killed.out) == _curve(whole.out)


def test_another_shape_or_other_settings_are_refused(config: Make) -> None:
    first = config(steps=2, save_every=1)
    train(first, _quiet(first))
    with pytest.raises(TrainingError, match=r"rate: 0\.003 -> 0\.1.*another --out"):
        train(dataclasses.replace(first, rate=0.1), _quiet(first))
    with pytest.raises(TrainingError, match="experts: 'dense' -> 'moe'"):
        train(dataclasses.replace(first, experts="moe"), _quiet(first))
    # The same settings, but what lies there is not what they give, or not whole.
    more = dataclasses.replace(first, steps=3)
    state = Path(first.out, "checkpoints", "step-00000002", "state.json")
    facts = json.loads(state.read_text())
    facts["config"]["experts"] = "moe"
    state.write_text(json.dumps(facts))
    with pytest.raises(TrainingError, match=r"broken or of another shape.*another --out"):
        train(dataclasses.replace(more, experts="moe"), _quiet(first))
    facts["config"]["experts"] = "dense"
    state.write_text(json.dumps(facts))
    data = next(state.parent.glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="remove it to go on from the one before"):
        train(more, _quiet(first))
    shutil.rmtree(state.parent)
    assert train(more, _quiet(first)).steps == 3


def test_a_loss_that_is_no_number_stops_and_saves_nothing(
    config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gristmill.model.training.train import Trainer

    broken = config(save_every=1, steps=8)
    update = Trainer._losses

    def poisoned(self: Trainer, batch: object) -> object:
        losses = update(self, batch)  # type: ignore[arg-type]
        return losses if self.step < 2 else dataclasses.replace(losses, text=losses.text * np.nan)

    monkeypatch.setattr(Trainer, "_losses", poisoned)
    with pytest.raises(TrainingError, match=r"no number for 3 steps in a row.*--rate"):
        train(broken, _quiet(broken))
    saved = checkpoint.steps(broken.out + "/checkpoints")
    monkeypatch.undo()
    # What was saved is from before, or from steps that were skipped: whole numbers all the same.
    result = train(broken, _quiet(broken))
    assert saved and result.steps == 8 and np.isfinite(result.last_loss)


def test_shards_without_captions_are_an_error(config: Make, tmp_path: Path) -> None:
    import io
    import tarfile

    import cv2

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        data = cv2.imencode(".png", draw(make_scene(1), 40))[1].tobytes()
        member = tarfile.TarInfo("x.png")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    bare = dataclasses.replace(config().data[0], url=str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"no captions.*--tokenizer"):
        train(config(data=(bare,)))
    with pytest.raises(ShardError):
        train(config(data=(dataclasses.replace(bare, url=str(tmp_path / "none")),)))


def test_paradigms_want_their_codecs_and_encoders(config: Make, world: World) -> None:
    with pytest.raises(ConfigurationError, match=r"draws by codes.*gives latents"):
        train(config("ar", codec=world.latents))
    with pytest.raises(ConfigurationError, match="semantic encoder; give --encoder"):
        train(config("janus", encoder=""))
    with pytest.raises(ConfigurationError, match="no codec at"):
        train(config(codec="nowhere.safetensors"))


def test_a_model_that_is_not_there_or_not_whole_is_named(config: Make, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no model in"):
        load(str(tmp_path))
    small = config(steps=2)
    train(small, _quiet(small))
    weights = Path(small.out, "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(TrainingError, match="cannot be read"):
        load(small.out)


def test_the_log_says_what_a_person_wants_to_know(
    config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    small = config(steps=4, sample_every=4, save_every=4)
    train(small)
    lines = read_log(small.out)
    assert {"loss_text", "loss_codes", "tokens_per_s", "data_wait", "epoch", "rate"} <= set(
        lines[0]
    )
    assert Path(small.out, "samples", "step-00000004.png").exists()
    assert any(Path(small.out, "tensorboard").iterdir())
    said = capsys.readouterr().err
    assert re.search(r"nano ar .* parameters .*ceiling psnr", said.replace("\n", " "))


@pytest.mark.parametrize("ends", ["well", "with an error"])
def test_a_process_that_trained_with_workers_ends(world: World, tmp_path: Path, ends: str) -> None:
    """Workers do not heed the signal by which Python ends its children as it exits, and it waits
    for them: they must have been told before."""
    config = dataclasses.replace(world.config(tmp_path / "out"), steps=2, workers=1)
    if ends != "well":
        # Nothing is a number then, and the trainer gives up.
        config = dataclasses.replace(config, rate=1e30, steps=50, patience=1, clip=1e30)
    values = tmp_path / "config.json"
    values.write_text(json.dumps(config.to_dict()))
    code = (
        "import json, sys\n"
        "from gristmill.model.training.train import train\n"
        "from gristmill.model.training.train_config import TrainConfig\n"
        "if __name__ == '__main__':\n"
        "    train(TrainConfig.from_dict(json.load(open(sys.argv[1]))))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    # It never ended; where it does, that is at once.
    done = subprocess.run(
        [sys.executable, str(script), str(values)], capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert (done.returncode == 0) == (ends == "well"), done.stderr[-2000:]
    assert ends == "well" or "no number" in done.stderr
