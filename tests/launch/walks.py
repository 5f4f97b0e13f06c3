"""A head VAE and what it is trained on: walks of seven numbers. The smallest training job."""

import numpy as np

from configs import head_vae
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature

FEATURES = {"id": Feature((), "str", "name"),
            "pose_z": Feature((None, 7), "float32", "pose", "", 30.0)}


def write_clips(out, *, seed=0, width=7):
    rng = np.random.default_rng(seed)
    features = FEATURES | {"pose_z": Feature((None, width), "float32", "pose", "", 30.0)}

    def examples(split, count):
        for i in range(count):
            pose = rng.standard_normal((20 + i, width), np.float32).cumsum(0) / 5
            yield {"id": f"{split}{i}", "pose_z": pose.astype(np.float32)}

    return store.write_dataset(out, name="tiny", description="walks", features=features,
                               progress=False,
                               splits={"train": examples("t", 6), "valid": examples("v", 4)},
                               recipes={"pose": {"of": "walk", "seed": seed}},
                               codecs={"pose": {"mean": np.zeros(7), "std": np.ones(7)}})


# Without dropout, whose random bits take four times as long to compile as all the rest.
TINY = {"system.d_ff": 16, "system.dropout": 0.0, "data.batch_size": 4, "data.segment": 16,
        "train.steps": 4, "train.checkpoint_every": 2, "train.evaluate_every": 2,
        "train.log_every": 1, "train.loss_examples": 4,
        "train.peak_flops": 1e11, "mesh.data": 1, "mesh.fsdp": 1}


def config(clips, **overrides):
    c = head_vae.get_config()
    c.data.dir = str(clips)
    c.update_from_flattened_dict(TINY | overrides)
    return c.lock()
