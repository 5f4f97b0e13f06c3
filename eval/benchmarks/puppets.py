"""The built-in corpus: every quantity is known, so every metric has a ground truth. It proves
learning and plumbing, never realism."""

from eval.benchmarks.common.clips import ClipBenchmark
from eval.benchmarks.common.targets import Targets


class Benchmark(ClipBenchmark):
    """Puppet clips: lips from the known articulators, words from the transcript."""

    name = "puppets"
    has_lips = True
    has_words = True

    def targets(self, summary):
        """What a model that has learned must reach on a held-out split."""
        targets = Targets(summary)
        value = targets.value
        if targets.has("model", "F1_lips"):
            targets.add("F1_lips", ">= 0.95", value("model", "F1_lips"), ">=", 0.95)
        for metric, sign, share in (("FD_e", "<", 0.25), ("mel_L1", "<=", 0.3), ("MCD", "<=", 0.5)):
            if targets.has("model", metric):
                targets.add(metric, f"{sign} {share:g} of shuffled", value("model", metric), sign,
                            share * value("shuffled", metric))
        for metric in ("BC_h", "BC_e"):
            if targets.has("model", metric):
                # The corpus' mean hardly tells true from shuffled motion; clip by clip, the score
                # does.
                targets.add(metric, "clip by clip nearer to truth than shuffled is",
                            value("model", f"{metric}_gap"), "<",
                            value("shuffled", f"{metric}_gap"))
                true = value("truth", metric)
                targets.add(metric, "mean nearer to truth's mean than shuffled's is",
                            abs(value("model", metric) - true), "<",
                            abs(value("shuffled", metric) - true))
        if targets.has("model", "WER"):
            targets.add("WER", "<= truth's + 0.15", value("model", "WER"), "<=",
                        value("truth", "WER") + 0.15)
        return targets.rows
