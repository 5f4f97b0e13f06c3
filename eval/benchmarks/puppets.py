"""The built-in corpus: every quantity is known, so every metric has a ground truth. It proves
learning and plumbing, never realism."""

import numpy as np

from eval.benchmarks.common import ClipBenchmark


class Benchmark(ClipBenchmark):
    """Puppet clips: lips from the known articulators, words from the transcript."""

    name = "puppets"
    has_lips = True
    has_words = True

    def targets(self, summary):
        """What a model that has learned must reach on a held-out split."""
        def value(variant, metric):
            return summary.get(variant, {}).get(metric, {}).get("value", np.nan)

        def row(metric, text, value, limit, met):
            return {"metric": metric, "target": text, "value": float(value), "limit": float(limit),
                    "met": bool(met)}

        out = []
        model = {m: value("model", m) for m in summary.get("model", {})}
        if "F1_lips" in model:
            out.append(row("F1_lips", ">= 0.95", model["F1_lips"], 0.95, model["F1_lips"] >= 0.95))
        for metric, share in (("FD_e", 0.25), ("mel_L1", 0.3), ("MCD", 0.5)):
            if metric in model:
                limit = share * value("shuffled", metric)
                sign = "<" if metric == "FD_e" else "<="
                met = model[metric] < limit or (sign == "<=" and model[metric] == limit)
                out.append(row(metric, f"{sign} {share:g} of shuffled", model[metric], limit, met))
        for metric in ("BC_h", "BC_e"):
            if metric in model:
                # The corpus' mean hardly tells true from shuffled motion; clip by clip, the score
                # does.
                gap, limit = model[f"{metric}_gap"], value("shuffled", f"{metric}_gap")
                out.append(row(metric, "clip by clip nearer to truth than shuffled is", gap, limit,
                               gap < limit))
                gap = abs(model[metric] - value("truth", metric))
                limit = abs(value("shuffled", metric) - value("truth", metric))
                out.append(row(metric, "mean nearer to truth's mean than shuffled's is", gap, limit,
                               gap < limit))
        if "WER" in model:
            limit = value("truth", "WER") + 0.15
            out.append(row("WER", "<= truth's + 0.15", model["WER"], limit, model["WER"] <= limit))
        return out
