"""Talker-T2AV on a user's own recordings: speech drives the face, through the weightless codecs.

Prepare:    avjax prepare --dataset=clips --source=MEDIA --out=data/me
            avjax extract --features=talker --multiple=4 --placeholder=speech \\
                --clips=data/me/clips --out=data/me/talker
Run:        avjax train --config=configs/talker_clips.py \\
                --config.data.dir=data/me/talker --workdir=runs/me
Generate:   avjax generate --workdir=runs/me --task=a2v --audio=speech.wav
Hardware:   two CPU cores; a few minutes.
Expect:     with seconds of material it repeats what it saw. Recordings have no transcript, so the
            prompt is one word for all and text to speech means nothing here; clips that have
            transcripts need no --placeholder, and then it does.
Sizes:      ours, as in configs/talker_quickstart.py.
"""

from configs import talker_quickstart


def get_config():
    c = talker_quickstart.get_config()
    c.name = "talker_clips"
    c.stages = ()
    c.data.dir = ""
    # clips of up to 30 s: recordings are longer than sentences
    c.system.row_tokens = 224
    c.system.row_patches = 192

    c.train.steps = 600
    c.train.checkpoint_every = 300
    c.train.evaluate_every = 300

    c.evaluate.benchmark = "clips"
    c.evaluate.splits = ("valid",)
    c.evaluate.tasks = ("a2v",)

    c.sample.text = ""
    c.sample.tasks = ("a2v",)
    return c
