"""BigVGAN on mel that has not ended is BigVGAN on the whole."""

import numpy as np
import pytest

from avjax.codecs.bigvgan import BigVGAN
from avjax.codecs.bigvgan_stream import StreamedBigVGAN
from avjax.errors import UserError
from tests.golden_files import config, some, under


@pytest.fixture(scope="module")
def vocoder():
    arrays = some("bigvgan_")
    made = BigVGAN.from_state_dict(under(arrays, "sd/"), config(arrays))
    made.window = 40
    return made


def streamed(vocoder, log_mel_TM, sizes, block=24):
    stream, at, parts = StreamedBigVGAN(vocoder, vocoder.mel | {"gain": 1.1}, block=block), 0, []
    for size in (*sizes, len(log_mel_TM)):
        parts.append(stream.feed(log_mel_TM[at:at + size]))
        at += size
    return [*parts, stream.finish()], stream


@pytest.mark.parametrize("frames", [30, 90])
def test_the_samples_are_those_of_the_whole_and_wait_for_the_halo(vocoder, frames):
    """Of a signal that is vocoded in one part offline, and of one in two."""
    log_mel_TM = np.random.default_rng(frames).standard_normal(
        (frames, vocoder.config.bands)).astype(np.float32)
    whole_N = vocoder.waveform(log_mel_TM, vocoder.mel | {"gain": 1.1})
    parts, stream = streamed(vocoder, log_mel_TM, (1,) * frames)
    np.testing.assert_allclose(np.concatenate(parts), whole_N, atol=1e-5)
    made = np.cumsum([0, *map(len, parts[:frames])]) // vocoder.hop
    # a block's first sample, when the last frame that it needs has come
    waited = {k + 0.5 - made[k] for k in range(frames) if made[k + 1] > made[k]}
    assert waited == ({stream.look_ahead} if frames > 60 else set())


def test_another_mel_is_refused(vocoder):
    with pytest.raises(UserError, match="trained on another mel"):
        StreamedBigVGAN(vocoder, vocoder.mel | {"hop": 7})
