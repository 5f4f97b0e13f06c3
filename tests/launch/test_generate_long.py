"""Long speech is made, inverted, drawn and encoded as it comes: the same as at once, in memory that
does not grow with it."""

import errno
import tracemalloc

import av
import jax
import numpy as np
import pytest

from avjax.inference.generator import Generator, Item
from avjax.signal import griffin_lim, mel
from avjax.systems import api
from avjax.systems.avflow import config as avflow_config
from avjax.systems.head_vae import system as head_vae
from data_pipelines import decode, prompting
from data_pipelines.features.avflow import head_pose
from data_pipelines.features.avflow import prompt as avflow
from data_pipelines.media import write_media
from launch.jobs import video


def test_chunks_of_av_flow_equal_the_whole(monkeypatch):
    c = avflow_config.default()
    c.update(dict(d_model=8, num_blocks=1, num_heads=1, d_ff=8, token_dim=6, face_dim=5,
                  head_dim=7))
    c.window, c.identity_dim, c.euler_steps = (3, 2), 8, 2
    system = api.build(c)
    params = api.new_params(system)
    tokens_TC = np.random.default_rng(0).standard_normal((150, 6)).astype(np.float32)
    generator = Generator(system, seed=0)
    conditions = avflow.conditions_of(system, tokens_TC, np.linspace(-1, 1, 8, dtype=np.float32))
    whole = avflow.prompt_of(system, "generate", conditions, "a", "", None)
    assert len(whole.pieces) == 1
    [(_, out, _)] = generator.batches(params, [Item("a", lambda: (conditions, 150))])
    monkeypatch.setattr(avflow, "CHUNK", 64)
    pieces = avflow.prompt_of(system, "generate", conditions, "a", "", None).pieces
    assert [len(piece["tokens"]) for piece in pieces] == [64, 64, 22]
    progress = generator.stream(params, pieces, "a")
    seconds = [chunk.seconds for chunk in progress]
    assert seconds == sorted(seconds) and seconds[-1] == pytest.approx(150 / c.frame_rate)
    alone = generator.stream(params, whole.pieces, "a", frames=[150])  # as --stream makes it
    for name in ("mel", "face", "head"):
        for made in (progress.result, alone.result):
            np.testing.assert_allclose(made[name][0], out[name][0, :150], atol=2e-5, err_msg=name)


def test_speech_inverted_in_parts_sounds_like_speech_inverted_at_once(monkeypatch):
    time_N = np.arange(22050) / 22050
    pitch_N = np.cumsum(120 + 30 * np.sin(2 * np.pi * time_N)) / 22050
    audio_N = sum(np.sin(2 * np.pi * k * pitch_N) / k for k in range(1, 20)).astype(np.float32)
    audio_N *= 0.1 * (0.1 + np.abs(np.sin(2 * np.pi * 2 * time_N)))
    target_TM = mel.log_mel(audio_N)
    whole_N = griffin_lim.waveform(target_TM, iterations=8)
    monkeypatch.setattr(griffin_lim, "LONGEST", 64)
    parts_N = griffin_lim.waveform(target_TM, iterations=8)
    assert parts_N.shape == whole_N.shape
    off = {name: np.abs(mel.log_mel(x_N) - target_TM).mean(1) for name,
           x_N in (("whole", whole_N), ("parts", parts_N))}
    assert off["parts"].mean() < 1.3 * off["whole"].mean()
    cuts = griffin_lim.parts(target_TM.mean(1))
    assert cuts[0][0] == 0 and cuts[-1][1] == len(target_TM) and max(b - a for a, b in cuts) <= 64
    for (_, end), (first, _) in zip(cuts, cuts[1:], strict=False):
        assert end - first == 16
        assert off["parts"][first:end].mean() < 2 * off[
            "whole"].mean() + 0.2, "no gap and no click where parts meet"


def test_mel_in_parts_is_mel_at_once(monkeypatch):
    audio_N = np.random.default_rng(0).standard_normal(256 * 50 + 77).astype(np.float32)
    whole_TM = mel.log_mel(audio_N)
    monkeypatch.setattr(mel, "AT_ONCE", 16)
    np.testing.assert_allclose(mel.log_mel(audio_N), whole_TM, atol=1e-5)


def test_long_head_tracks_go_in_windows_without_a_jump(monkeypatch):
    config = head_vae.released()
    config.d_ff = 32
    system = api.build(config)
    arrays = {"/".join(k.key for k in path): np.asarray(x) for path, x in
              jax.tree_util.tree_leaves_with_path(api.new_params(system))}
    recipe = {"kind": "vae", "system": config.to_dict()}
    latent_TZ = np.sin(np.arange(300)[:, None] / 20 + np.arange(8)).astype(np.float32)
    whole = head_pose.decode(recipe, arrays, latent_TZ)
    monkeypatch.setattr(head_pose, "LONGEST", 128)
    monkeypatch.setattr(head_pose, "FADE", 16)
    windows = head_pose.decode(recipe, arrays, latent_TZ)
    assert windows.shape == whole.shape
    assert np.abs(windows - whole).max() < 0.5 * whole.std()
    assert np.abs(np.diff(windows, axis=0)).max() < 1.5 * np.abs(np.diff(whole, axis=0)).max()


class Pictures:
    """A decoder of two speakers whose pictures are counted as they are drawn."""

    sample_rate, fps = 8000, 25

    def __init__(self, seconds: int):
        self.seconds = seconds
        self.family = decode.StreamDecoder(self)
        self.family.heard = ("mel",)

    def speakers(self, streams):
        return [{}, {}]

    def has_audio(self, streams):
        return True

    has_motion = has_audio

    def waveform(self, streams):
        return np.zeros(self.seconds * self.sample_rate, np.float32)

    def pictures(self, streams, **kw):
        count = self.seconds * self.fps
        return count, (np.full((96, 96, 3), k % 256, np.uint8) for k in range(count))


def test_pictures_are_never_all_in_memory(tmp_path):
    def peak(seconds):
        tracemalloc.start()
        try:
            made = video.write_dialogue(tmp_path / f"{seconds}", [{}, {}], ("a", "b"),
                                          Pictures(seconds))
            return made, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    (_, short), (made, long) = peak(2), peak(12)
    drawn = 2 * 10 * 25 * 96 * 96 * 3
    assert long - short < drawn / 4, "ten seconds more take sound's memory, not pictures'"
    with av.open(str(made["mp4"])) as container:
        assert sum(1 for _ in container.decode(video=0)) == 300
        assert container.streams.video[0].width == 192
        order = [(p.stream.type, float(p.dts * p.time_base)) for p in container.demux()
                 if p.dts is not None] if \
            container.seek(0) is None else []
    late = {"audio": 0.0, "video": 0.0}
    for kind, at in order:
        late[kind] = at
        assert abs(
            late["audio"] - late["video"]) < 2.5, "sound lies beside its pictures in the file"


def test_sound_and_picture_last_equally_long():
    frames = np.arange(5)[:, None, None, None] * np.ones((5, 2, 2, 3), int)
    shown = {n: [int(picture[0, 0, 0]) for picture in video.held(iter(frames), n)]
             for n in (3, 5, 7)}
    assert shown == {3: [0, 1, 2], 5: [0, 1, 2, 3, 4], 7: [0, 1, 2, 3, 4, 4, 4]}


@pytest.mark.parametrize("at", [0, 5])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, at):
    add, calls = write_media.Mp4Writer.add, []

    def full(self, image):
        calls.append(image)
        if len(calls) > at:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, image)

    monkeypatch.setattr(write_media.Mp4Writer, "add", full)
    with pytest.raises(OSError, match="No space left"):
        video.write(tmp_path / "talk", {}, Pictures(1),
                       prompting.Prompt("avatar", (), 0, "", speakers=("a", "b")))
    assert list(tmp_path.iterdir()) == []
