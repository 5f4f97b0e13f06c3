"""AV-Flow's 50 h release as its owners lay it out, and the features that their code makes of it."""

import shutil

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from avjax.errors import UserError
from avjax.signal import mel
from configs import avflow_50h
from data_pipelines import extract
from data_pipelines import prepare as preparing
from data_pipelines.ingest.avflow50h.prepare import vectors
from data_pipelines.store import dataset as store
from data_pipelines.store.dataset import Unusable
from tests.data_pipelines.ingest import code_trees as trees
from tests.data_pipelines.ingest.code_trees import DAYS, FRAMES, SMIRK
from tests.data_pipelines.ingest.reading import made

BROKEN = {"a": "lengths differ", "b": "not rotations", "c": "an array is cut short",
          "d": "the participant's face was never found", "e": "a file is missing",
          "f": "silent channel", "g": "truncated", "h": "most frames are missing"}
MENDED = {"x": "streams that end apart, cut to the shortest",
          "y": "frames that are not finite, interpolated",
          DAYS[0]: "the partner's channel is silent"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("50h")
    vae = trees.fifty_hours(root)
    trees.segment(root, "a", participant=FRAMES + 9)
    trees.segment(root, "x", participant=FRAMES - 3)
    for name in "bcdefghy":
        trees.segment(root, name)
    trees.save(root / "headpose/b--headpose.npy", np.ones((FRAMES, 3, 4), np.float32))
    codes = root / "expression_codes/c.npy"
    codes.write_bytes(codes.read_bytes()[:-100])
    trees.save(root / f"{SMIRK}/d--expression.npy", np.zeros((FRAMES, 55), np.float32))
    (root / f"{SMIRK}/e--headpose.npy").unlink()
    silent = trees.wav(root / "audio/f.wav") * [0, 1]
    trees.soundfile.write(root / "audio/f.wav", silent, 48000, "PCM_16")
    unheard = trees.wav(root / f"audio/{DAYS[0]}.wav") * [1, 0]
    trees.soundfile.write(root / f"audio/{DAYS[0]}.wav", unheard, 48000, "PCM_16")
    sound = root / "audio/g.wav"
    sound.write_bytes(sound.read_bytes()[:5000])
    for name, bad in (("h", slice(5, 40)), ("y", slice(0, 2))):
        codes = np.load(root / f"expression_codes/{name}.npy")
        codes[bad, 7] = np.inf
        pose = np.load(root / f"headpose/{name}--headpose.npy")
        pose = np.concatenate([pose, np.full((FRAMES, 1, 4), [0, 0, 0, 1], np.float32)], 1)
        pose[30] = np.nan  # (N, 4, 4), as some have it
        trees.save(root / f"headpose/{name}--headpose.npy", pose)
        trees.save(root / f"expression_codes/{name}.npy", codes)
    return root, vae


@pytest.fixture(scope="module")
def prepared(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp("clips") / "50h"
    return out, *made("avflow50h", tree[0], out, max_bad=0.7)


def test_every_defect_is_named_and_the_split_is_the_owners(prepared):
    _, clips, refused, told = prepared
    assert refused == BROKEN
    assert {n: clips[n]["mended"] for n in MENDED} == {n: [note] for n, note in MENDED.items()}
    assert {n for n, c in clips.items() if c["split"] == "valid"} == set(DAYS[2:])
    assert np.isfinite(clips["y"]["pose"]).all()
    assert told["clips of train"] == 4 and len(clips["x"]["face"]) == FRAMES - 3
    assert len(clips["x"]["audio"]) == len(clips["x"]["partner_audio"]) == 735 * (FRAMES - 3)


def test_without_the_participant_nothing_of_theirs_is_asked_for(tree, tmp_path):
    _, refused, _ = made("avflow50h", tree[0], tmp_path / "out", participant=False)
    assert refused.keys() == BROKEN.keys() - {"a", "d", "e"}
    features = store.open_dataset(tmp_path / "out").features
    assert "partner_audio" in features and "partner_face" not in features


def test_features_are_the_published_codes(prepared, tree, tmp_path):
    """Everything on the mel's clock by torch's interpolate(scale_factor); pose and expression by
    the release's own statistics; the head VAE's mean on that clock."""
    out, clips, _, _ = prepared
    root, (system, params) = tree
    features = extract.extract(out, tmp_path / "f", tokens="given", head="vae", mode="released",
                               loudness="recorded", progress=False)
    assert features.recipes["mel"] == mel.RECIPE
    assert set(features.codecs) == {"pose", "partner", "head", "decoder", "speakers"}
    name = DAYS[3]
    row = features.source("valid")[features.ids["valid"].index(name)]

    def on_clock(x_TC, rate=30.0):
        at = np.maximum((np.arange(len(row["mel"])) + 0.5) * rate / mel.FRAME_RATE - 0.5, 0)
        below = np.minimum(at.astype(int), len(x_TC) - 1)
        above = np.minimum(below + 1, len(x_TC) - 1)
        return x_TC[below] + (x_TC[above] - x_TC[below]) * (at - below)[:, None]

    def file(place):
        return np.load(root / place).astype(np.float64)

    tokens = file(f"{trees.TOKENS}/{name}.npy")
    rate = tokens.shape[1] / FRAMES * 30
    pose = vectors(file(f"headpose/{name}--headpose.npy"), "")
    z_T7 = (pose - [*[0.1] * 4, *[3.0] * 3]) / [*[2.0] * 4, *[60.0] * 3]
    want = {"face": on_clock(file(f"expression_codes/{name}.npy")),
            "tokens": on_clock(tokens[0], rate), "partner_tokens": on_clock(tokens[1], rate),
            "partner_expression": on_clock(file(f"{SMIRK}/{name}--expression.npy") * 0.4 - 0.2),
            "partner_head": on_clock(file(f"{SMIRK}/{name}--headpose.npy") * 0.4 - 0.2),
            "head": np.asarray(system.encode(params, on_clock(z_T7)[None].astype(np.float32)))[0]}
    for stream, x_TC in want.items():
        np.testing.assert_allclose(row[stream], x_TC, atol=2e-4 if stream == "head" else 2e-5)
    sound = clips[name]["audio"] / np.float32(32768)
    np.testing.assert_array_equal(row["mel"], mel.of_speech(sound, None))
    config = avflow_50h.get_config().system
    widths = {n: config[f"{n.removesuffix('s')}_dim"] for n in (
        "face", "partner_tokens", "partner_expression", "partner_head")}
    assert {n: row[n].shape[1] for n in widths} == widths
    assert config.mel_recipe.to_dict() == mel.RECIPE
    codec = store.open_dataset(out).codec("decoder")
    assert codec["vert_mean"].shape == (4, 3) and codec["vert_var"] == 1.5


def day(matrix) -> np.ndarray:
    """Quaternion wxyz of a matrix by Day's branches, of the transposed matrix as he writes it."""
    m = np.asarray(matrix).T
    if m[2, 2] < 0:
        if m[0, 0] > m[1, 1]:
            t, q = 1, [m[1, 2] - m[2, 1], None, m[0, 1] + m[1, 0], m[2, 0] + m[0, 2]]
        else:
            t, q = 2, [m[2, 0] - m[0, 2], m[0, 1] + m[1, 0], None, m[1, 2] + m[2, 1]]
    elif m[0, 0] < -m[1, 1]:
        t, q = 3, [m[0, 1] - m[1, 0], m[2, 0] + m[0, 2], m[1, 2] + m[2, 1], None]
    else:
        t, q = 0, [None, m[1, 2] - m[2, 1], m[2, 0] - m[0, 2], m[0, 1] - m[1, 0]]
    signs = {0: (1, 1, 1), 1: (1, -1, -1), 2: (-1, 1, -1), 3: (-1, -1, 1)}[t]
    q[t] = 1 + np.dot(signs, np.diag(m))
    return 0.5 * np.array(q) / np.sqrt(q[t])


def test_quaternions_are_the_releases_in_every_branch():
    turns = Rotation.random(200, random_state=0).as_matrix()
    poses = np.concatenate([turns, np.ones((200, 3, 1))], 2)
    want = np.stack([day(turn) for turn in turns])
    assert {int(np.abs(q).argmax()) for q in want} == {0, 1, 2, 3} and (want[:, 0] < 0).any()
    got = vectors(poses, "")
    np.testing.assert_allclose(got[:, :4], want, atol=1e-6)
    np.testing.assert_array_equal(got[:, 4:], 1)
    poses[7, :, 0] *= -1  # a mirror is no rotation
    with pytest.raises(Unusable, match="not rotations"):
        vectors(poses, "here")


@pytest.mark.parametrize(("place", "content", "message"), [
    ("headpose/headpose_normstats/head_qvec_std.npy", np.zeros(4, np.float32), "head_qvec_std"),
    (f"{SMIRK}/stats/headpose_max.npy", None, "headpose_max.npy.*--noparticipant"),
    (f"{SMIRK}/stats/headpose_max.npy", np.full(3, -2, np.float32), "head_max above its head_min"),
    ("decoder/vert_var.txt", b"\xff\xfe many", "decoder"),
    ("decoder/vert_var.txt", b"1 2 3", "decoder.*3 numbers in vert_var.txt"),
])
def test_statistics_that_are_none_end_the_job(tree, tmp_path, place, content, message):
    source = tmp_path / "source"
    shutil.copytree(tree[0], source, ignore=shutil.ignore_patterns("audio"))
    (source / place).unlink()
    if isinstance(content, bytes):
        (source / place).write_bytes(content)
    elif content is not None:
        trees.save(source / place, content)
    with pytest.raises(UserError, match=message) as error:
        preparing.prepare("avflow50h", source=str(source), out=str(tmp_path / "out"),
                          progress=False)
    assert "\n" not in str(error.value)
