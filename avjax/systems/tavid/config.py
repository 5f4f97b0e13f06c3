"""The fields of the complete TAVID system: one config a part, and S7; with presets (see
avjax/fields.py). Ours by choice; the paper prints no sizes."""

from ml_collections import ConfigDict

from avjax.errors import UserError
from avjax.fields import Section, field
from avjax.nn import config_fields
from avjax.systems.tavid.acoustic import config as acoustic_config
from avjax.systems.tavid.mapper import config as mapper_config
from avjax.systems.tavid.speaker import config as speaker_config
from avjax.systems.tavid.text import config as text_config
from avjax.systems.tavid.visual import config as visual_config


class Config(Section):
    name: str = config_fields.system_name("tavid")
    text: text_config.Config = field(None, "Script to units.")
    acoustic: acoustic_config.Config = field(None, "Units to mel.")
    visual: visual_config.Config = field(None, "Units and a portrait to video.")
    speaker: speaker_config.Config = field(None, "A portrait to a voice.")
    faces: str = field("pictures", "pictures, the visual part's video; motion, the Motion Mapper's "
                       "face codes and poses, drawn as puppets [ours]: a dialogue is seen without "
                       "a renderer.", choices=("pictures", "motion"))
    mapper: mapper_config.Config = field(None, "Units to motion, where faces = motion; the visual "
                                         "part is not there then.")
    mapped_share: float = field(0.5, "S7: share of speakers whose voice is the mapped one; the "
                                "others keep the true one [ours].", minimum=0, maximum=1)

    @staticmethod
    def relations(c, need):
        mapper = "mapper" if c.faces == "motion" else "visual.mapper"
        if c.faces == "motion":
            need((c.mapper.target, c.mapper.head) == ("motion", "linear"), "mapper.target",
                 "motion, with head = linear")
        else:
            need(c.visual.stage == "temporal", "visual.stage", "temporal")
            need(c.visual.driver == "units", "visual.driver", "units: a script has no sound yet")
            _check_agreement("face embedding", c, "visual.face_width", "speaker.face_dim")
        _check_agreement("number of speakers", c, "text.num_streams", "acoustic.num_speakers",
                         f"{mapper}.streams", "speaker.speakers")
        _check_agreement("codebook", c, "text.num_units", "acoustic.num_units",
                         f"{mapper}.num_units")
        _check_agreement("voice", c, "acoustic.voice_dim", "speaker.voice_dim")


def _check_agreement(what: str, config, *keys: str) -> None:
    values = []
    for key in keys:
        value = config
        for name in key.split("."):
            value = value[name]
        values.append(value)
    if len(set(values)) > 1:
        raise UserError(f"parts of another {what}", where="config.system",
                        expected="the same number in all parts",
                        found=", ".join(f"{key}={value}"
                                        for key, value in zip(keys, values, strict=True)))


def full() -> ConfigDict:
    """The sizes of the parts' own `full`."""
    c = Config.make()
    c.visual.stage = "temporal"
    return c


def tiny() -> ConfigDict:
    """What learns on two CPU cores."""
    c = full()
    c.text = text_config.tiny()
    c.acoustic = acoustic_config.tiny()
    c.visual = visual_config.tiny()
    c.visual.stage = "temporal"
    c.speaker = speaker_config.tiny()
    c.mapper = mapper_config.tiny()
    c.visual.mapper.num_units = c.mapper.num_units = c.text.num_units
    c.visual.face_width = c.speaker.face_dim
    return c


check = Config.check
base = full  # the name of before, which users' config files call
