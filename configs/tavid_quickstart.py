"""TAVID on puppet dialogues, from nothing to a checkpoint that turns a script and two portraits
into a conversation.

Run:      python -m launch.train --config=configs/tavid_quickstart.py --workdir=runs/tavid
One part: --config=configs/tavid_quickstart.py:text (vae, reader, text, acoustic, appearance,
mapper, motion, temporal, speaker)
Hardware: two CPU cores, 6 GiB; 25 minutes for data and trainings, then evaluation and a sample
dialogue.
Expect:   avatar F1_lips .79 (valid) and .78 (test_speaker), the codec's .99; speech with as many turns, gaps and overlaps as
          the corpus; face to voice 12 times chance (docs/tavid.md). On puppets: learning and
          plumbing, never realism.
Sizes:    ours; TAVID prints none. configs/tavid.py has the full-size ones.
"""

from avjax.systems.face_reader import system as face_reader
from avjax.systems.tavid import config as tavid
from avjax.systems.tavid.mapper import config as mapper
from avjax.systems.tavid.speaker import config as speaker
from avjax.systems.tavid.vae import config as vae
from avjax.systems.tavid.visual import config as visual
from configs import base

UNITS = 128
PICTURES, FEATURES = "{workdir}/data/pictures", "{workdir}/data/features"


def _part(name, system, *, steps, batch, rate, warmup=50):
    """What the parts' trainings share."""
    c = base.get_config()
    c.name = f"tavid_quickstart_{name}"
    c.system = system
    c.data.batch_size = batch
    o = c.optimizer
    o.learning_rate, o.schedule, o.warmup_steps, o.clip_norm = rate, "cosine", warmup, 1.0
    o.b2, o.weight_decay, o.ema_decay = 0.99, 0.01, 0.995
    t = c.train
    t.steps, t.log_every, t.loss_examples = steps, 50, 32
    t.checkpoint_every = t.evaluate_every = max(1, -(-steps // 2))
    return c


def whole():
    """tavid.System: every part at its tiny size, for these puppets."""
    s = tavid.tiny()
    s.text.filler = 0  # units are numbered by the loudness of what they stand for: 0 is silence
    s.visual.face_width = s.speaker.face_dim
    # plain squared error of the data: the net predicts it, see visual/config.py
    s.visual.min_snr = 0.0
    for part in (s.text, s.acoustic, s.visual.mapper):
        part.num_units = UNITS
    return s


def get_config(part: str = ""):
    """The whole job, or the training of one part."""
    s = whole()
    if not part:
        return dialogue(s)
    if part == "vae":
        return _part("vae", vae.tiny(), steps=1800, batch=2, rate=4e-3)
    if part == "reader":
        return _part("reader", face_reader.tiny(), steps=1000, batch=8, rate=2e-3)
    if part == "text":
        c = _part("text", s.text, steps=900, batch=4, rate=3e-3)
        c.optimizer.b2, c.optimizer.weight_decay = 0.95, 0.05
        return c
    if part == "acoustic":
        return _part("acoustic", s.acoustic, steps=2000, batch=4, rate=2e-3)
    if part == "speaker":
        c = _part("speaker", speaker.tiny(), steps=400, batch=8, rate=1e-3)
        # retrieval; see docs/tavid.md
        c.evaluate.benchmark, c.evaluate.splits = "dialogue", ("test_speaker",)
        c.evaluate.in_loop_examples = 0
        return c
    if part == "mapper":
        m = mapper.tiny()
        m.num_units = UNITS
        return _part("mapper", m, steps=300, batch=8, rate=2e-3)
    steps = {"appearance": 300, "motion": 500, "temporal": 100}
    if part not in steps:
        raise ValueError(f"no part {part!r}")
    s.visual.stage = part
    c = _part(part, s.visual, steps=steps[part], batch=4, rate=1e-3)
    # The motion stage goes on with the denoiser's own layers: three hundred steps of appearance do
    # not make a renderer.
    c.optimizer.frozen = visual.frozen(part) if part != "motion" else (r"denoiser/.*/temporal/.*",
                                                                       r"reference/.*",
                                                                       r"image_projection/.*")
    return c


def dialogue(s):
    """Everything, in order; then S7, evaluation and a sample."""
    def train(part, data, **overrides):
        return dict(kind="train", config=f"configs/tavid_quickstart.py:{part}",
                    workdir=f"{{workdir}}/{part}",
                    overrides={"data.dir": data} | overrides)

    c = _part("dialogue", s, steps=150, batch=8, rate=3e-4)
    c.name = "tavid_quickstart"
    c.stages = (
        dict(kind="prepare", dataset="puppets", out="{workdir}/data/clips", sentences=16,
             speakers=160, held_out=32,
             dialogues=140, turns=4, valid=8, test=8, seed=0),
        dict(kind="extract", features="pictures", clips="{workdir}/data/clips_dialogues",
             out=PICTURES),
        train("vae", PICTURES),
        dict(kind="extract", features="decoded", clips=PICTURES, out="{workdir}/data/decoded",
             vae="{workdir}/vae"),
        train("reader", "{workdir}/data/decoded"),
        # S0
        dict(kind="extract", features="tavid", clips="{workdir}/data/clips_dialogues", out=FEATURES,
             vae="{workdir}/vae", reader="{workdir}/reader", num_units=UNITS, tokens="phonemes",
             video=0.6),
        train("text", FEATURES),  # S1
        train("acoustic", FEATURES),  # S2
        train("appearance", FEATURES),  # S3
        train("mapper", FEATURES),
        train("motion", FEATURES, **{"train.init_from": "{workdir}/appearance",  # S4
                                     "train.init_parts": (("mapper", "{workdir}/mapper", "mapper"),
                                     )}),
        train("temporal", FEATURES, **{"train.init_from": "{workdir}/motion"}),  # S5
        train("speaker", FEATURES),  # S6
    )
    c.data.dir = FEATURES
    c.optimizer.frozen = (r"(text|visual|speaker)/.*",)
    c.train.init_parts = (("text", "{workdir}/text", ""), ("acoustic", "{workdir}/acoustic", ""),
                          ("visual", "{workdir}/temporal", ""),
                          ("speaker", "{workdir}/speaker", ""))
    e = c.evaluate
    e.benchmark, e.splits, e.tasks = "dialogue", ("valid", "test_speaker"), ("avatar", "speech")
    e.in_loop_examples, e.max_examples = 0, 3
    c.sample.example, c.sample.tasks = "test_speaker/0", ("dialogue",)
    return c
