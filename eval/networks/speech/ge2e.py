"""Who speaks, by GE2E (Wan et al. 2018), with the weights that the package resemblyzer carries: the
network of avjax/encoders/voices/ge2e.py."""

from avjax.encoders.voices import ge2e
from avjax.sharding import rows
from eval.networks.speech.wavlm_ecapa import Voices


def load(path) -> Voices:
    """Of the package's file. UserError: unreadable, or of another network."""
    return Voices(ge2e.Ge2e(ge2e.read(path), mesh=rows.devices()))
