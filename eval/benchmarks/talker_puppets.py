"""Puppets for systems that decide lengths themselves and serve several tasks: text to both (t2av),
text to speech (tts), speech to motion (a2v) and motion to speech (v2a).

Text alone does not say when a sound is spoken, so t2av's lips are judged on frames matched by the
sound (F1_lips_dtw), beside the raw measure; a2v hears the true sound and is judged frame by frame.
Another sentence, aligned in the same way, is what each is compared with.
"""

from data_pipelines.puppets import face_code
from eval.benchmarks import puppets
from eval.benchmarks.common.targets import Targets


class Benchmark(puppets.Benchmark):
    """Puppet clips whose length the system decides."""

    name = "talker_puppets"
    patch_s = 0.16  # four frames at 25 Hz

    def clip_lips(self, split, index):
        """(aperture, mouth width) of the recorded articulators."""
        found = self.clip(split, index, "face")
        if found is None:
            return None
        return face_code.lips(face_code.decode(found[0], self.clips.codec("face")))

    def targets(self, summary):
        """What a model that has learned must reach on a held-out split, of the tasks that were
        scored."""
        targets = Targets(summary)
        value = targets.value

        def require(task, metric, sign, text, limit):
            if targets.has(task, metric):  # in the loop, say, no waveform is scored
                targets.add(f"{task} {metric}", f"{sign} {text}", value(task, metric), sign, limit)

        def between(metric, share):
            """The value that is `share` of the way from another sentence's to the truth's."""
            shuffled = value("shuffled", metric)
            return shuffled + share * (value("truth", metric) - shuffled)

        require("a2v", "F1_lips", ">=", "three quarters of the way from shuffled to truth",
                between("F1_lips", 0.75))
        require("t2av", "F1_lips_dtw", ">=", "half of the way from shuffled to truth",
                between("F1_lips_dtw", 0.5))
        if "t2av" in summary:
            for metric in ("F1_lips", "F1_lips_dtw"):
                require("a2v", metric, ">", f"t2av's {metric}", value("t2av", metric))
        for task in ("t2av", "a2v"):
            for metric in ("FD_e", "FD_h"):
                require(task, metric, "<", "0.25 of shuffled", 0.25 * value("shuffled", metric))
            for metric in ("BC_e_gap", "BC_h_gap"):
                require(task, metric, "<", "shuffled's", value("shuffled", metric))
        for task in ("t2av", "tts", "v2a"):
            require(task, "mel_L1_dtw", "<=", "0.75 of shuffled",
                    0.75 * value("shuffled", "mel_L1_dtw"))
        for task in ("t2av", "tts"):
            require(task, "WER", "<=", "truth's + 0.3", value("truth", "WER") + 0.3)
            require(task, "length_error", "<", "half of shuffled",
                    0.5 * value("shuffled", "length_error"))
            require(task, "stop_within_2", ">", "that of the mean length",
                    value("mean", "stop_within_2"))
        return targets.rows
