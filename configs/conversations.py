"""A user's own conversations, from a folder of recordings to a dialogue in their faces and voices:
TAVID's parts at their small size, and AV-Flow that listens.

Prepare:    avjax prepare --dataset=conversations --source=TALKS --out=runs/talks/data/clips
Run:        avjax train --config=configs/conversations.py --workdir=runs/talks
Evaluate:   avjax evaluate --config=configs/conversations.py --checkpoint=runs/talks
            avjax evaluate --config=configs/conversations.py:listener \\
                --checkpoint=runs/talks/listener \\
                --config.data.dir=runs/talks/data/listening
Generate:   avjax generate --workdir=runs/talks --script=dialogue.txt --portraits=ann,ben
            avjax generate --workdir=runs/talks --task=avatar --example=valid/0
            avjax generate --workdir=runs/talks/listener --example=valid/0
            avjax generate --workdir=runs/talks/listener --partner=ben.mp4
            ann and ben are speakers of the folder, or pictures of anybody.
Features:   Talker's: avjax extract --features=talker --clips=runs/talks/data/clips
            --out=runs/talks/data/talker --multiple=4; then configs/talker_clips.py.
Hardware:   two CPU cores, 3 GiB (measured on 23 seconds of conversations). All 4,920 steps took 64
            minutes, 47 of them beside other jobs; stopped once by a restart of the machine, it
            went on with the next step.
Expect:     with seconds of material it repeats what it saw; learning and plumbing, not realism.
            Without transcripts there is no text to learn from: configs/conversations.py:untold
            trains everything else. Three or four speakers: :three, :four.
Sizes:      ours, as in configs/tavid_quickstart.py; configs/tavid.py has the full-size ones.
"""

from avjax.codecs import eigenface
from avjax.errors import UserError
from configs import clips, tavid_quickstart

UNITS = tavid_quickstart.UNITS
MOTION = eigenface.COMPONENTS + 7  # face code and pose
CLIPS = "{workdir}/data/clips"
PICTURES = "{workdir}/data/pictures"
DECODED = "{workdir}/data/decoded"
FEATURES = "{workdir}/data/features"
LISTENING = "{workdir}/data/listening"
STEPS = {"vae": 1500, "reader": 400, "text": 500, "acoustic": 1000, "appearance": 250,
         "mapper": 200, "motion": 350, "temporal": 60, "speaker": 200, "dialogue": 60}
# variant: (speakers of a conversation, whether what they say is known)
WHOLE = {"": (2, True), "untold": (2, False), "three": (3, True), "four": (4, True)}


def _part(part: str, speakers: int):
    """The training of one part, as on puppets but for sizes that the recordings decide."""
    c = tavid_quickstart.get_config("" if part == "dialogue" else part)
    c.name = f"conversations_{part}"
    tavid_quickstart.of_speakers(c, speakers)
    if part == "reader":
        c.system.motion_dim = MOTION
    if part == "mapper":
        c.system.target_dim = MOTION
    c.train.steps = STEPS[part]
    c.train.checkpoint_every = c.train.evaluate_every = -(-STEPS[part] // 2)
    c.train.log_every = 25
    c.evaluate.splits = ("valid",)
    return c


def _listener():
    """AV-Flow of one speaker, who hears and sees the other."""
    c = clips.get_config()
    c.name = "conversations_listener"
    s = c.system
    s.partner_token_dim = s.token_dim
    s.partner_expression_dim = s.face_dim
    s.identity_dim = 8
    s.partner_head_dim = 3
    s.partner_dropout = 0.1
    s.guidance = 1.5

    c.data.dir = LISTENING
    c.data.batch_size = 4
    c.train.steps = 400
    c.train.log_every = 25
    return c


def _whole(variant: str):
    """Every part's training, in order; then S7, evaluation and a sample. Untold, the last part is
    the renderer."""
    speakers, told = WHOLE[variant]
    c = _part("dialogue" if told else "temporal", speakers)
    c.name = "conversations"
    c.stages = _stages(speakers, told)
    c.data.dir = FEATURES
    if told:
        c.sample.example = "valid/0"
    else:
        c.train.init_from = "{workdir}/motion"
    return c


def _stages(speakers: int, told: bool):
    suffix = {2: "", 3: "-three", 4: "-four"}[speakers]

    def train(part, data=FEATURES, **overrides):
        return dict(kind="train", config=f"configs/conversations.py:{part}{suffix}",
                    workdir=f"{{workdir}}/{part}", overrides={"data.dir": data} | overrides)

    mapper = ("mapper", "{workdir}/mapper", "mapper")
    listener = (
        dict(kind="extract", clips=CLIPS, out=LISTENING, tokens="units", units=clips.UNITS),
        dict(kind="train", config="configs/conversations.py:listener",
             workdir="{workdir}/listener", overrides={"data.dir": LISTENING}),
    )
    return (
        dict(kind="extract", features="pictures", clips=CLIPS, out=PICTURES),
        train("vae", PICTURES),
        dict(kind="extract", features="decoded", clips=PICTURES, out=DECODED, vae="{workdir}/vae"),
        train("reader", DECODED),
        dict(kind="extract", features="tavid", clips=CLIPS, out=FEATURES, vae="{workdir}/vae",
             reader="{workdir}/reader", num_units=UNITS, tokens="phonemes",
             scripts="needed" if told else "none"),
        *((train("text"),) if told else ()),
        train("acoustic"),
        train("appearance"),
        train("mapper"),
        train("motion", **{"train.init_from": "{workdir}/appearance",
                           "train.init_parts": (mapper,)}),
        *(listener if speakers == 2 else ()),
        *((train("temporal", **{"train.init_from": "{workdir}/motion"}),) if told else ()),
        train("speaker"),
    )


PARTS = tuple(p for p in STEPS if p != "dialogue")
VARIANTS = (*(name for name in WHOLE if name), "listener", *PARTS,
            *(f"{part}-{count}" for count in ("three", "four") for part in PARTS))


def get_config(variant: str = ""):
    """All of it, or the training of one part."""
    if variant not in WHOLE and variant not in VARIANTS:
        raise UserError("unknown variant", where="configs/conversations.py",
                        expected=" | ".join(VARIANTS), found=repr(variant))
    if variant in WHOLE:
        return _whole(variant)
    if variant == "listener":
        return _listener()
    part, _, count = variant.partition("-")
    return _part(part, {"": 2, "three": 3, "four": 4}[count])
