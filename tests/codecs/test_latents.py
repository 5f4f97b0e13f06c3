"""Talker's stand-in codecs: exact framing, what the round trip loses, and how it fails."""

import numpy as np
import pytest

from avjax.codecs import latents, motion
from avjax.encoders import voice_statistics
from avjax.errors import UserError
from avjax.signal import griffin_lim, mel


def hum(seconds=2.0, pitch=120.0, seed=0):
    """A voice of sorts: harmonics under moving formants, at 24 kHz."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * 24000)) / 24000
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.1 * np.sin(3 * t + seed))) / 24000
    formants = [(500 + 300 * np.sin((2 + i) * t + 6 * rng.uniform())) * (1 + i) for i in range(3)]
    gain = [sum(np.exp(-((k * pitch - f) / 150) ** 2) for f in formants) + 0.02
            for k in range(1, 25)]
    audio = sum(g * np.sin(k * phase) for k, g in enumerate(gain, 1)) * (0.6 + 0.4 * np.sin(5 * t))
    return (0.1 * audio + 1e-3 * rng.normal(size=len(t))).astype(np.float32)


@pytest.fixture(scope="module")
def moments():
    moments = latents.moments()
    for seed in range(8):
        moments.add(latents.stacked_mel(hum(1.5, 90 + 18 * seed, seed)))
    return moments


@pytest.fixture(scope="module")
def codec(moments):
    return latents.fit(moments)


def test_a_scale_moves_error_between_components_and_changes_no_sound(codec, moments):
    """Components differ by the root of their deviation; mel stays, and so does the recipe of what
    was extracted before there was a choice."""
    root = latents.fit(moments, scale="root")
    audio = hum(1.0, 120, 9)
    unit_TA, root_TA = codec.encode(audio), root.encode(audio)
    std_A = codec.codec.std
    np.testing.assert_allclose(root_TA, unit_TA * np.sqrt(std_A / std_A.mean()), rtol=1e-4,
                               atol=1e-5)
    np.testing.assert_allclose(root.mel(root_TA), codec.mel(unit_TA), atol=1e-4)
    assert root.recipe["scale"] != codec.recipe["scale"] == "unit variance on the training split"
    again = latents.from_recipe(root.recipe, root.arrays())
    assert again.recipe == root.recipe and np.array_equal(again.encode(audio), root_TA)


def test_the_second_mel_recipe_leaves_the_first_alone():
    assert mel.RECIPE["hop"] == 256 and mel.RECIPE["sample_rate"] == 22050 and mel.RECIPE[
        "gain"] == 1.1
    assert mel.log_mel(np.zeros(24000, np.float32), mel.RECIPE_24K).shape == (100, 80)
    assert latents.STACK * mel.RECIPE_24K["hop"] == latents.HOP


def test_an_impulse_lands_in_its_frame(codec):
    """Sample s belongs to latent frame s // 960, at both ends of the frame too."""
    floor = latents.stacked_mel(np.zeros(9600, np.float32))
    quiet = codec.encode(np.zeros(9600, np.float32))
    for s in (0, 900, 959 + 60, 1920 + 60, 2401, 2879 - 60, 5000, 9599):
        audio = np.zeros(9600, np.float32)
        audio[s] = 0.5
        # By energy: the mel frame nearest in time hears it loudest, as the window is highest at its
        # centre.
        energy = np.exp(mel.denormalise(latents.stacked_mel(audio).reshape(-1, 80),
                                        latents.MEL)).sum(-1)
        assert energy.argmax() == s // 240 and energy.argmax() // 4 == s // 960
        changed = np.abs(latents.stacked_mel(audio) - floor).max(-1) > 1e-3
        assert changed[s // 960] and not changed[np.abs(np.arange(10) - s // 960) > 1].any()
        if 240 < s % 960 < 720:  # well inside, the latents say so too
            assert np.abs(codec.encode(audio) - quiet).sum(-1).argmax() == s // 960


@pytest.mark.parametrize("samples", [480, 959, 960, 961, 24000, 24001])
def test_lengths(codec, samples):
    frames = -(-samples // 960)
    z = codec.encode(hum()[:samples])
    assert z.shape == (frames, 32) and z.dtype == np.float32
    assert codec.mel(z).shape == (4 * frames, 80)
    # whole clip or not
    np.testing.assert_allclose(codec.encode(hum()[:24000])[:20], codec.encode(hum())[:20],
                               atol=1e-5)


def test_round_trip_quality(codec):
    """On voices between those that it was fitted on. The ceiling of any model that makes these
    latents."""
    distances, blurred = [], []
    for seed in range(3):
        audio = hum(1.5, 100 + 25 * seed, 100 + seed)
        target = latents.stacked_mel(audio).reshape(-1, 80)
        z = codec.encode(audio)
        distances.append(np.abs(codec.mel(z) - target).mean())
        blurred.append(np.abs(codec.mel(np.zeros_like(z)) - target).mean())
        np.testing.assert_allclose(codec.encode(audio), z)
    print(f"mel L1 {np.mean(distances):.3f} (mean frame {np.mean(blurred):.3f}), explained "
          f"{codec.codec.explained:.3f}")
    assert np.mean(distances) < 0.15 and np.mean(distances) < 0.3 * np.mean(blurred)
    assert codec.codec.explained > 0.95


def test_latents_have_unit_variance(codec):
    z = np.concatenate([codec.encode(hum(1.5, 90 + 18 * seed, seed)) for seed in range(8)])
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(z.std(0), 1, atol=1e-2)


def test_sound_comes_back(codec):
    """The mel of the reconstructed sound is near the mel that was asked for, and at the right
    time."""
    audio = hum(1.28)
    log_mel_SM = mel.denormalise(codec.mel(codec.encode(audio)), latents.MEL)
    made = griffin_lim.waveform(log_mel_SM, recipe=latents.MEL)
    assert made.shape == audio.shape == (32
                                         * 960,) and made.dtype == np.float32 and np.abs(
                                             made).max() <= 1
    target = latents.stacked_mel(audio)
    distance = [np.abs(latents.stacked_mel(np.roll(made, shift)) - target)[2:-2].mean()
                for shift in (0, 480, -480)]
    assert distance[0] < 0.35 and distance[0] < 0.9 * min(distance[1:]), distance


def test_audio_codec_comes_back_from_its_arrays(codec):
    again = latents.from_recipe(codec.recipe, codec.arrays())
    np.testing.assert_array_equal(again.encode(hum()), codec.encode(hum()))
    assert again.recipe == codec.recipe
    with pytest.raises(UserError, match="unknown audio codec.*whisperx-vae"):
        latents.from_recipe({"kind": "whisperx-vae"}, {})
    with pytest.raises(UserError, match="without components"):
        latents.from_recipe(codec.recipe,
                            {k: v for k, v in codec.arrays().items() if k != "components"})
    with pytest.raises(UserError, match="another mel"):
        latents.from_recipe(codec.recipe | {"mel": mel.RECIPE}, codec.arrays())
    with pytest.raises(UserError, match=r"wrong latent width.*\(frames, 32\).*\(5, 40\)"):
        codec.mel(np.zeros((5, 40)))
    with pytest.raises(UserError, match="too short"):
        codec.encode(np.zeros(0, np.float32))
    moments = latents.moments()
    moments.add(np.random.default_rng(0).normal(size=(20, 320)))
    with pytest.raises(UserError, match="fewer directions"):
        latents.fit(moments)


def test_motion_is_packed_scaled_and_unpacked():
    rng = np.random.default_rng(0)
    face, pose = rng.normal(size=(50, 16)), rng.normal(size=(50, 7))
    raw = motion.pack(face, pose)
    assert raw.shape == (50, 40) and not raw[:, 23:].any()
    recipe = {"kind": motion.KIND, "face_dim": 16}
    codec = motion.from_recipe(recipe, {"mean": raw.mean(0), "std": raw.std(0)})
    z = codec.encode(raw)
    np.testing.assert_allclose(z[:, :23].std(0), 1, atol=1e-4)
    assert not z[:, 23:].any() and codec.std_M.min() >= 1e-6 * (1 - 1e-6)
    for found, true in zip(codec.face_and_pose(z), (face, pose), strict=True):
        np.testing.assert_allclose(found, true, atol=1e-5)
    assert motion.pack(np.zeros((3, 33)), np.zeros((3, 7))).shape == (3, 40)
    with pytest.raises(UserError, match="do not fit.*34 and 7"):
        motion.pack(np.zeros((3, 34)), np.zeros((3, 7)))
    with pytest.raises(UserError, match="statistics missing.*without std"):
        motion.from_recipe(recipe, {"mean": np.zeros(40)})
    with pytest.raises(UserError, match="wrong latent width"):
        motion.from_recipe(recipe, {"mean": np.zeros(39), "std": np.ones(39)})
    with pytest.raises(UserError, match="wrong latent width"):
        codec.encode(np.zeros((4, 39)))
    with pytest.raises(UserError, match="no face code.*lia-x"):
        motion.from_recipe({"kind": "lia-x"}, codec.arrays()).face_and_pose(z)


def test_what_differs_between_recordings_of_a_speaker_is_taken_out():
    """Two-covariance data: many loud directions of the recording, few quiet ones of the speaker."""
    rng = np.random.default_rng(0)
    own, room = rng.normal(size=(4, 256)), 3 * rng.normal(size=(6, 256))

    def recordings(speakers, each):
        who = np.repeat(np.arange(speakers), each)
        x = rng.normal(size=(speakers, 4))[who] @ own + rng.normal(size=(len(who), 6)) @ room
        x += 0.3 * rng.normal(size=x.shape)
        return x.astype(np.float32), who.astype(str)

    def found(encoder):
        """Share of held-out recordings that are nearest, by cosine, to the other one of their
        speaker."""
        z = encoder.scale(held_out).astype(np.float64)
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        return np.mean((z @ z.T - 2 * np.eye(len(z))).argmax(1) // 2 == np.arange(len(z)) // 2)

    (x, who), (held_out, _) = recordings(80, 2), recordings(40, 2)
    plain, told = (voice_statistics.VoiceStatistics.fit(x, names) for names in (None, who))
    assert found(plain) < 0.3 and found(told) > 0.8
    assert np.mean(told.scale(x) ** 2) == pytest.approx(1, abs=1e-3)
    again = voice_statistics.from_recipe(told.recipe, told.arrays())
    np.testing.assert_array_equal(again.scale(x[:3]), told.scale(x[:3]))
    assert told.recipe["speaker_part"]["shrinkage"] == 0.2 and "speaker_part" not in plain.recipe
    # nobody speaks twice: nothing to learn from
    once = voice_statistics.VoiceStatistics.fit(x, np.arange(len(x)).astype(str))
    assert once.map_SS is None and once.recipe == plain.recipe


def test_voice_statistics_hear_pitch_and_timbre():
    t = np.arange(24000) / 24000
    for pitch in (75, 120, 210, 330):
        tone = sum(np.sin(2 * np.pi * pitch * k * t) / k
                   for k in range(1, 12)).astype(np.float32) * 0.1
        assert abs(100 * 2 ** voice_statistics.statistics(tone)[240] - pitch) < 0.02 * pitch
    x = np.stack([voice_statistics.statistics(hum(1.0, 90 + 60 * who, 10 * who + i))
                  for who in range(3) for i in range(4)])
    assert x.shape == (12, 256) and x.dtype == np.float32 and np.isfinite(x).all()
    encoder = voice_statistics.VoiceStatistics.fit(x)
    z = encoder.scale(x)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-4)
    assert (z.std(0) < 1.01).all()
    near = ((z[:, None] - z[None]) ** 2).sum(-1) + 1e9 * np.eye(12)
    # each utterance is nearest to another of its speaker
    assert (near.argmin(1) // 4 == np.arange(12) // 4).all()
    padded = np.pad(hum(1.0), (24000, 24000))
    assert np.abs(encoder(padded) - encoder(hum(1.0))).mean() < 0.5  # silence around does not count
    again = voice_statistics.from_recipe(encoder.recipe, encoder.arrays())
    np.testing.assert_array_equal(again(hum()), encoder(hum()))
    assert np.isfinite(encoder(np.zeros(2400, np.float32))).all()
    with pytest.raises(UserError, match="statistics missing"):
        voice_statistics.from_recipe(encoder.recipe, {})
    with pytest.raises(UserError, match="unknown voice encoder.*wavlm"):
        voice_statistics.from_recipe({"kind": "wavlm"}, {})
