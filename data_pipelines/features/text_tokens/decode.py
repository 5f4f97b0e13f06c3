"""Tokens of a text: nothing to hear or see, written as they are."""

from avjax.signal import mel
from data_pipelines import decode


class StreamDecoder(decode.StreamDecoder):
    """See data_pipelines.decode.StreamDecoder."""

    mel_recipe = mel.RECIPE  # on whose clock they are
    arrays = ("tokens", "durations")
