"""Does it sound like that person? Cosine of the speaker embeddings of WavLM with ECAPA-TDNN (Chen
et al. 2022, arXiv:2110.13900), as papers report it, of what was made and of recordings. The same by
GE2E under names of its own: its cosines are higher, and no paper's SIM is to be held against
them."""

from eval.networks.speech.sound import RESAMPLER
from eval.registry import declare


def scored(network: str, suffix: str = ""):
    """What scores a case by a network of voices, under SIM and `suffix`."""
    def score(case):
        """None: silence, or no recording to compare with."""
        benchmark, voices = case.benchmark, case.benchmark.networks[network]
        own_N = benchmark.clip_audio(case.split, case.index)
        recordings = {"SIM": own_N, "SIM_other": _other(case)}
        found = {name: wave_N for name, wave_N in recordings.items() if wave_N is not None}
        own, *theirs = voices([case.signals.waveform, *found.values()], benchmark.sample_rate)
        cosines = {name: None if own is None or x is None else float(own @ x)
                   for name, x in zip(found, theirs, strict=True)}
        return {name + suffix: cosines.get(name) for name in recordings}
    return score


def _other(case):
    """Another recording of the same speaker, of the same split; None where none is known."""
    benchmark, speakers = case.benchmark, case.benchmark.labels(case.split)[0]
    index = benchmark.other(case.split, case.index)
    if index == case.index or not speakers[index] or speakers[index] != speakers[case.index]:
        return None
    return benchmark.clip_audio(case.split, index)


def _recipe(reference):
    return {"implementation": "avjax eval.metrics.judged.wavlm_ecapa 1", "distance": "cosine",
            "reference": reference, **RESAMPLER}


for _network, _suffix, _needs, _by in (
        ("wavlm_ecapa", "", (), ""),
        ("ge2e", "_ge2e", ("package:webrtcvad",), ", by GE2E")):
    _function = scored(_network, _suffix)
    for _name, _meaning, _reference in (
            ("SIM", "cosine of the voice's embedding to that of the clip's own recording",
             "the clip's own audio"),
            ("SIM_other", "the same to another recording of the speaker",
             "the audio of the shuffled baseline's clip, where it is the same speaker's")):
        declare(_name + _suffix, "up", _meaning + _by, family="sound", score=_function,
                needs=("audio", "waveform", "each", f"network:{_network}", *_needs),
                recipe=lambda benchmark, reference=_reference: _recipe(reference))
