"""TAVID on puppet dialogues, from nothing to a checkpoint that turns a script and two portraits
into a conversation. A variant is the training of one part, or a conversation of three or four;
`drawn`, and `drawn-three` or `-four`, learn no pictures: faces are the Motion Mapper's, drawn as
puppets.

Run:        avjax train --config=configs/tavid_quickstart.py --workdir=runs/tavid
            avjax train --config=configs/tavid_quickstart.py:three --workdir=runs/tavid3
            avjax train --config=configs/tavid_quickstart.py:drawn-three --workdir=runs/drawn3
Hardware:   two CPU cores, 6 GiB; half an hour for data and trainings, then evaluation and a
            sample dialogue.
Expect:     avatar F1_lips .90 (valid and test_speaker), the codec's .99; speech with as many
            turns, gaps and overlaps as the corpus; face to voice 12 times chance (docs/tavid.md).
            On puppets: learning and plumbing, never realism. Three and four speakers take as
            many steps, each of them dearer; `drawn-three`: F1_lips .97, by the Motion Mapper.
Sizes:      ours; TAVID prints none. configs/tavid.py has the full-size ones.
"""

from avjax.errors import UserError
from avjax.systems.face_reader import config as face_reader
from avjax.systems.tavid import config as tavid
from avjax.systems.tavid.mapper import config as mapper
from avjax.systems.tavid.speaker import config as speaker
from avjax.systems.tavid.vae import config as vae
from avjax.systems.tavid.visual import config as visual
from configs import base

UNITS = 128
CLIPS = "{workdir}/data/clips_dialogues"
PICTURES = "{workdir}/data/pictures"
DECODED = "{workdir}/data/decoded"
FEATURES = "{workdir}/data/features"
S7_FROZEN = (r"(text|visual|speaker)/.*",)
DRAWN = "drawn"
DRAWN_FROZEN = (r"(text|mapper|speaker)/.*",)
PICTURED = ("vae", "reader", "appearance", "motion", "temporal")  # trainings that pictures take
NUMBERS = {"": 2, "three": 3, "four": 4}  # of the speakers in a conversation, by variant
# The motion stage continues with the denoiser's own layers: three hundred steps of appearance do
# not make a renderer.
MOTION_FROZEN = (r"denoiser/.*/temporal/.*", r"reference/.*", r"image_projection/.*")


def every_part():
    """tavid.System: every part at its tiny size, for these puppets."""
    s = tavid.tiny()
    # units are numbered by the loudness of what they stand for: 0 is silence (docs/data.md)
    s.text.filler = 0
    s.text.num_units = UNITS
    s.acoustic.num_units = UNITS
    s.visual.mapper.num_units = UNITS
    # plain squared error of the data: the net predicts it, see visual/config.py
    s.visual.min_snr = 0.0
    s.visual.motion_shift = True
    return s


def _training(name, system, *, steps, batch_size, learning_rate):
    """What the parts' trainings share."""
    c = base.get_config()
    c.name = f"tavid_quickstart_{name}"
    c.system = system
    c.data.batch_size = batch_size

    c.optimizer.learning_rate = learning_rate
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 50
    c.optimizer.b2 = 0.99
    c.optimizer.weight_decay = 0.01
    c.optimizer.clip_norm = 1.0
    c.optimizer.ema_decay = 0.995

    c.train.steps = steps
    c.train.log_every = 50
    c.train.checkpoint_every = max(1, -(-steps // 2))
    c.train.evaluate_every = max(1, -(-steps // 2))
    c.train.loss_examples = 32
    return c


def _vae():
    return _training("vae", vae.tiny(), steps=1800, batch_size=2, learning_rate=4e-3)


def _reader():
    return _training("reader", face_reader.tiny(), steps=1000, batch_size=8, learning_rate=2e-3)


def _text():
    c = _training("text", every_part().text, steps=900, batch_size=4, learning_rate=3e-3)
    c.optimizer.b2 = 0.95
    c.optimizer.weight_decay = 0.05
    return c


def _acoustic():
    return _training("acoustic", every_part().acoustic, steps=2000, batch_size=4,
                     learning_rate=2e-3)


def _mapper():
    c = _training("mapper", mapper.tiny(), steps=300, batch_size=8, learning_rate=2e-3)
    c.system.num_units = UNITS
    return c


def _visual(stage, steps):
    c = _training(stage, every_part().visual, steps=steps, batch_size=4, learning_rate=1e-3)
    c.system.stage = stage
    c.optimizer.frozen = visual.frozen(stage)
    return c


def _motion():
    """Lips want many small steps; docs/tavid.md, "Where lips are lost"."""
    c = _visual("motion", 1600)
    c.system.frames = 4
    c.optimizer.name = "muon"
    c.optimizer.frozen = MOTION_FROZEN
    return c


def _speaker():
    c = _training("speaker", speaker.tiny(), steps=400, batch_size=8, learning_rate=1e-3)
    # retrieval; see docs/tavid.md
    c.evaluate.benchmark = "dialogue"
    c.evaluate.splits = ("test_speaker",)
    c.evaluate.in_loop_examples = 0
    return c


def _drawn(number=""):
    """As `_dialogue`, but faces are motion: no pictures are made, encoded or learned."""
    c = _dialogue(number)
    c.name = "tavid_quickstart_drawn"
    c.system.faces = "motion"
    c.optimizer.frozen = DRAWN_FROZEN
    c.train.init_parts = tuple(
        part if part[0] != "visual" else ("mapper", "{workdir}/mapper", "")
        for part in c.train.init_parts)
    stages = [s for s in c.stages
              if s.get("features") not in ("pictures", "decoded")
              and not s.get("workdir", "").endswith(PICTURED)]
    c.stages = tuple({k: x for k, x in s.items() if k not in ("vae", "reader", "video")}
                     for s in stages)
    return c


def of_speakers(config, speakers: int):
    """An experiment's config for conversations of so many speakers."""
    system = config.system
    whole = "text" in system
    for s in (system.text, system.acoustic, system.visual, system.mapper, system.speaker) if whole \
            else (system,):
        if "num_streams" in s:
            s.num_streams = speakers
            # the decoder's width is the embeddings of a step's units side by side
            s.d_model = 96 * speakers
        if "num_speakers" in s:
            s.num_speakers = speakers
        if "mapper" in s:
            s.mapper.streams = speakers
        for name in ("streams", "speakers"):
            if name in s:
                s[name] = speakers
    return config


def _dialogue(suffix=""):
    """Every part's training, in order; then S7, evaluation and a sample."""
    c = _training("dialogue", every_part(), steps=150, batch_size=8, learning_rate=3e-4)
    c.name = "tavid_quickstart"
    c.stages = _stages(suffix)
    c.data.dir = FEATURES
    c.optimizer.frozen = S7_FROZEN
    c.train.init_parts = (
        ("text", "{workdir}/text", ""),
        ("acoustic", "{workdir}/acoustic", ""),
        ("visual", "{workdir}/temporal", ""),
        ("speaker", "{workdir}/speaker", ""),
    )

    c.evaluate.benchmark = "dialogue"
    c.evaluate.splits = ("valid", "test_speaker")
    c.evaluate.tasks = ("avatar", "speech")
    c.evaluate.in_loop_examples = 0
    c.evaluate.max_examples = 3

    c.sample.example = "test_speaker/0"
    c.sample.tasks = ("dialogue",)
    return c


def _stages(suffix):
    people = NUMBERS[suffix]

    def train(part, data, **overrides):
        return dict(
            kind="train",
            config=f"configs/tavid_quickstart.py:{part}{suffix and '-'}{suffix}",
            workdir=f"{{workdir}}/{part}",
            overrides={"data.dir": data} | overrides,
        )

    mapper_part = ("mapper", "{workdir}/mapper", "mapper")
    return (
        dict(
            kind="prepare",
            dataset="puppets",
            out="{workdir}/data/clips",
            sentences=16,
            speakers=160,
            held_out=32,
            dialogues=140,
            turns=2 * people,
            valid=8,
            test=8,
            seed=0,
            **({"people": people} if people > 2 else {}),
        ),
        dict(kind="extract", features="pictures", clips=CLIPS, out=PICTURES),
        train("vae", PICTURES),
        dict(kind="extract", features="decoded", clips=PICTURES, out=DECODED, vae="{workdir}/vae"),
        train("reader", DECODED),
        # S0
        dict(
            kind="extract",
            features="tavid",
            clips=CLIPS,
            out=FEATURES,
            vae="{workdir}/vae",
            reader="{workdir}/reader",
            num_units=UNITS,
            silence_db=50.0,
            tokens="phonemes",
            video=0.6,
        ),
        train("text", FEATURES),  # S1
        train("acoustic", FEATURES),  # S2
        train("appearance", FEATURES),  # S3
        train("mapper", FEATURES),
        train("motion", FEATURES, **{"train.init_from": "{workdir}/appearance",  # S4
                                     "train.init_parts": (mapper_part,)}),
        train("temporal", FEATURES, **{"train.init_from": "{workdir}/motion"}),  # S5
        train("speaker", FEATURES),  # S6
    )


PARTS = {
    "vae": _vae,
    "reader": _reader,
    "text": _text,
    "acoustic": _acoustic,
    "appearance": lambda: _visual("appearance", 300),
    "mapper": _mapper,
    "motion": _motion,
    "temporal": lambda: _visual("temporal", 100),
    "speaker": _speaker,
}
VARIANTS = (*PARTS, DRAWN, *(f"{DRAWN}-{n}" for n in NUMBERS if n),
            *(n for n in NUMBERS if n), *(f"{p}-{n}" for n in NUMBERS if n for p in PARTS))


def get_config(variant: str = ""):
    """All of it, or the training of one part, of two speakers or more."""
    if variant and variant not in VARIANTS:
        raise UserError("unknown variant", where="configs/tavid_quickstart.py",
                        expected=" | ".join(VARIANTS), found=repr(variant))
    if variant in NUMBERS:
        return of_speakers(_dialogue(variant), NUMBERS[variant])
    part, _, number = variant.partition("-")
    if part == DRAWN:
        return of_speakers(_drawn(number), NUMBERS[number])
    return of_speakers(PARTS[part](), NUMBERS[number])
