"""Puppets in conversation, one side at a time: does who listens react to the partner, and when?

What the partner is worth shows in the variants: with the partner (model), alone, with a stranger,
unguided (eval/benchmarks/common/clips.py). Nothing recognises words of two speakers, so there is
no WER.
"""

from eval.benchmarks.common.clips import ClipBenchmark
from eval.benchmarks.common.targets import Targets


class Benchmark(ClipBenchmark):
    """Puppet dialogues: lips and smiles from the known articulators, turns from their events."""

    name = "listening"
    has_lips = True

    def targets(self, summary):
        """What a listener that has learned must reach on a held-out split."""
        targets = Targets(summary)
        for metric in ("F1_smiles_listening", "F1_nods_listening"):
            for other in ("alone", "stranger"):
                if targets.has("model", metric) and targets.has(other, metric):
                    targets.add(metric, f"above {other}", targets.value("model", metric), ">",
                                targets.value(other, metric))
        return targets.rows
