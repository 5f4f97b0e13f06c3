"""Every family of features: its options, pictures of motion, and jobs that are killed."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from avjax.errors import UserError
from avjax.signal import resample
from data_pipelines import declared, decode, extract
from data_pipelines.puppets import face_code, render
from tests.data_pipelines.features.dialogues import SIZE, UNITS


def test_pictures_show_what_motion_says(clips, folder):
    made = extract.extract(clips.dir, folder / "pictures", features="pictures", size=SIZE, rate=2.0,
                           progress=False)
    assert made.splits["train"] == 6 and made.features["pictures"].rate == 2.0
    row, clip = made.source("valid")[1], clips.source("valid")[1]
    for k in (0, 3, 9):
        np.testing.assert_allclose(row["motion"][k, :16],
                                   resample.interpolate(clip["face"], np.array([k * 15.0]))[0],
                                   atol=1e-5)
    articulators = face_code.decode(row["motion"][:, :16], made.codec("face"))
    stats = made.codec("pose")
    drawn = render.render(articulators, row["motion"][:, 16:] * stats["std"] + stats["mean"],
                          row["identity"], SIZE, 1.2)
    # codes are z-scored and back: a rounding on an edge
    assert np.abs(drawn.astype(int) - row["pictures"]).max() <= 30
    assert not decode.Decoder.from_dataset(made).has_audio(row)
    with pytest.raises(UserError, match="no such rate"):
        extract.extract(clips.dir, folder / "p2", features="pictures", rate=0.0)


def test_the_command_line_knows_every_family(clips, folder):
    assert extract.FEATURES == ("avflow", "decoded", "pictures", "talker", "tavid", "text_tokens",
                                "units", "vocoder")
    options = {name: declared.options(extract.extractor(name)) for name in extract.FEATURES}
    assert (options["tavid"]["num_units"].kind, options["tavid"]["num_units"].default) == (int, 100)
    assert options["avflow"]["resample"].name == "mode" and "progress" not in options["tavid"]
    assert all(one.option.help for family in options.values() for one in family.values())
    command = [sys.executable, "-m", "launch.extract", f"--clips={clips.dir}",
               f"--out={folder / 'cli'}", "--features=pictures"]
    root = pathlib.Path(__file__).parents[3]
    done = subprocess.run([*command, "--num_units=3"], cwd=root, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 2 and done.stderr.count(
        "\n") == 1 and "--num_units means nothing here" in done.stderr


def test_extraction_of_every_family_goes_on_after_kills(clips, folder):
    """Real SIGKILLs; see kill_points.py."""
    families = {"avflow": (clips.dir, {}), "pictures": (clips.dir, {"size": SIZE, "rate": 1.0}),
                "talker": (folder / "clips", {}),
                "tavid": (clips.dir, {"num_units": UNITS, "size": SIZE})}
    (folder / "killed").mkdir()
    program = pathlib.Path(__file__).parents[1] / "kill_points.py"
    what = json.dumps({name: (str(path), options) for name, (path, options) in families.items()})
    done = subprocess.run([sys.executable, program, folder / "killed", what], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("moments") == len(families)
