"""How a benchmark's metrics are made: the definitions that travel with every number."""

import zlib

from eval.metrics import alignment, diversity, frechet, onsets, speech
from eval.signals import FPS


def of(benchmark) -> dict[str, dict]:
    """{metric: recipe} of an eval.benchmarks.common.ClipBenchmark."""
    out = {"mel_L1": speech.RECIPE["mel_L1"]} | _motion(benchmark)
    if benchmark.full:
        mcd = speech.RECIPE["MCD"] | {"sample_rate": benchmark.sample_rate}
        out |= {"MCD": mcd | {"reference": "ground truth through the same codec"},
                "MCD_audio": mcd | {"reference": "the clip's own audio"}}
    if benchmark.has_lips:
        out["F1_lips"] = dict(benchmark.lip_recipe)
        out["F1_lips_clip"] = benchmark.lip_recipe | {"reference":
                                                      "the clip's own lips, before any codec"}
    if benchmark.free_length:
        out |= _free_length(benchmark, out)
    if benchmark.has_words and benchmark.full:
        from eval.metrics import intelligibility
        out["WER"] = intelligibility.RECIPE | {"vocabulary": len(benchmark.vocabulary),
                                               "vocabulary_crc32":
                                               zlib.crc32(" ".join(benchmark.vocabulary).encode())}
    return out


def _motion(benchmark) -> dict[str, dict]:
    """Of face (e) and head (h), or of motion codes (m)."""
    codes = {"on": "z-scored motion codes, all numbers of a frame", "fps": benchmark.motion_fps}
    frames = {"e": {"on": "face codes", "fps": FPS, "resampled": "linear on timestamps"},
              "h": {"on": "pose z-scored with the corpus' statistics", "fps": FPS}, "m": codes}
    spread = {"e": {"on": "face codes"}, "h": {"on": "z-scored pose"}, "m": codes}
    clip, pool = {"pooling": "per clip, mean over clips"}, {"pooling": "all clips' frames together"}
    beat = benchmark.beat_recipe | {"fps": benchmark.motion_fps, "onsets": onsets.RECIPE
                                    | {"sample_rate": benchmark.sample_rate},
                                    "audio": "the variant's own; shuffled: another sentence's "
                                    "motion, this one's audio"}
    out = {}
    for part in benchmark.parts:
        distance = frechet.RECIPE | frames[part]
        out |= {f"FD_{part}": distance | clip, f"FK_{part}": distance | clip,
                f"FD_{part}_pooled": distance | pool,
                f"Div_{part}": diversity.RECIPE | spread[part]}
        if benchmark.full:
            beats = beat | {"motion": spread[part]["on"]}
            out |= {f"BC_{part}": beats, f"BC_{part}_gap": beats
                    | {"gap": "mean over clips of |BC - truth's BC|"}}
    return out | ({"var_e": diversity.RECIPE | spread["e"]} if "e" in benchmark.parts else {})


def _free_length(benchmark, framewise: dict) -> dict[str, dict]:
    """Of systems that decide lengths themselves."""
    both = {"frames": "those that both have"}
    out = {m: framewise[m] | both for m in ("mel_L1", "F1_lips", "F1_lips_clip") if m in framewise}
    out |= {f"{m}_dtw": framewise[m] | alignment.RECIPE for m in ("mel_L1", "F1_lips")
            if m in framewise}
    length = {"length": "duration / truth's - 1",
              "baselines": "another sentence's length; the mean of training clips"}
    out |= {"length_error": length | {"sign": "absolute"}, "length_error_signed": length}
    if benchmark.patch_s:
        out["stop_within_2"] = {"share of": "examples at most 2 patches off",
                                "patch_s": benchmark.patch_s}
    return out
