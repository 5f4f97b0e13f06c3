"""The whole of TAVID: one config a part, and S7. Presets `base` and `tiny`. Ours by choice; the
paper prints no sizes."""

from ml_collections import ConfigDict

from avjax.errors import UserError
from avjax.systems.tavid.acoustic import config as acoustic
from avjax.systems.tavid.speaker import config as speaker
from avjax.systems.tavid.text import config as text
from avjax.systems.tavid.visual import config as visual

PARTS = {"text": text, "acoustic": acoustic, "visual": visual, "speaker": speaker}


def _of(preset: str) -> ConfigDict:
    c = ConfigDict(dict(name="tavid"))
    for name, module in PARTS.items():
        c[name] = getattr(module, preset)()
    c.visual.stage = "temporal"
    # S7: share of speakers whose voice is the mapped one, the others keep the true one (ours)
    c.mapped_share = 0.5
    return c


def base() -> ConfigDict:
    """The sizes of the parts' own `base`."""
    return _of("base")


def tiny() -> ConfigDict:
    """What learns on two CPU cores."""
    return _of("tiny")


def check(config) -> None:
    """UserError where parts do not fit together. Each part checks itself."""
    if config.visual.stage != "temporal":
        raise UserError("the visual part is not whole", where="config.system.visual.stage",
                        expected="temporal",
                        found=repr(config.visual.stage))
    numbers = {"number of speakers": {"text.num_streams": config.text.num_streams,
                                      "acoustic.num_speakers": config.acoustic.num_speakers,
                                      "visual.mapper.streams": config.visual.mapper.streams},
               "codebook": {"text.num_units": config.text.num_units,
                            "acoustic.num_units": config.acoustic.num_units,
                            "visual.mapper.num_units": config.visual.mapper.num_units},
               "face embedding": {"visual.face_width": config.visual.face_width,
                                  "speaker.face_dim": config.speaker.face_dim},
               "voice": {"acoustic.voice_dim": config.acoustic.voice_dim,
                         "speaker.voice_dim": config.speaker.voice_dim}}
    for what, values in numbers.items():
        if len(set(values.values())) > 1:
            raise UserError(f"parts of another {what}", where="config.system",
                            expected="the same number in all parts",
                            found=", ".join(f"{name}={value}" for name, value in values.items()))
    if not 0 <= config.mapped_share <= 1:
        raise UserError("no such share", where="config.system.mapped_share", expected="0 to 1",
                        found=str(config.mapped_share))
