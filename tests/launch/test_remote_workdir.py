"""launch.train with --workdir=gs://...: everything but the data lies in a (faked) bucket."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from test_train import config, one_device, write_clips  # noqa: F401

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

import fake_gcs  # noqa: E402

from avjax.errors import UserError  # noqa: E402
from avjax.training import paths  # noqa: E402
from launch import flags, stages, training  # noqa: E402

train, store = flags.launcher("launch.train"), fake_gcs.store


def test_a_run_in_a_bucket_and_what_cannot_lie_there(store, tmp_path, one_device, monkeypatch):  # noqa: F811
    clips, workdir = write_clips(tmp_path / "clips").dir, paths.folder("gs://bucket/runs/x")
    training.run_training(config(clips, **{"train.steps": 2, "train.evaluate_every": 0}), workdir)

    def evaluate(config, here):  # sees a local folder with a checkpoint, and what it writes goes back
        assert (here / "checkpoints" / "4" / "state").is_dir() and np.load(here / "codecs" / "pose.npz")["std"].sum() == 7
        (here / "results.json").write_text("{}")

    monkeypatch.setattr(train.launch_flags, "launcher", lambda name: type("L", (), {"evaluate": staticmethod(evaluate)}))
    train.run(config(clips, **{"evaluate.benchmark": "some", "evaluate.in_loop_examples": 0, "train.evaluate_every": 0}), workdir)
    assert store["bucket/runs/x/results.json"][0] == b"{}"
    assert json.loads(store["bucket/runs/x/config.json"][0])["train"]["steps"] == 4
    records = [json.loads(line) for line in store["bucket/runs/x/metrics.jsonl"][0].decode().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "train"] == [1, 2, 3, 4]
    for name in ("recipes.json", "codecs/pose.npz"):
        assert store[f"bucket/runs/x/{name}"][0] == (Path(clips) / name).read_bytes()
    with pytest.raises(UserError, match="begun with another config; where: gs://bucket/runs/x/config.json.*system.d_ff"):
        training.run_training(config(clips, **{"system.d_ff": 32}), workdir)
    with pytest.raises(UserError, match="data is read from disks; where: config.data.dir"):
        training.run_training(config("{workdir}/data"), workdir)
    with pytest.raises(UserError, match="this stage writes to a local disk; where: config.stages.0.; .* found: gs://bucket/runs/x/d"):
        stages.run_stages(({"kind": "extract", "clips": str(clips), "out": "{workdir}/d"},), workdir)
