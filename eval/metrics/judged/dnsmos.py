"""How clean does it sound? What DNSMOS predicts of listeners, of speech, background and both (ITU-T
P.835), and of the whole (P.808). A network that has heard noise suppressors: compare with the
truth's own number."""

from eval.networks.speech import dnsmos, dnsmos_p808
from eval.registry import declare


def _p835(case):
    benchmark = case.benchmark
    found = benchmark.networks["dnsmos"](case.signals.waveform, benchmark.sample_rate)
    return {f"DNSMOS_{name}": found and found[name] for name in dnsmos.NAMES}


def _p808(case):
    benchmark = case.benchmark
    return {"DNSMOS_P808": benchmark.networks["dnsmos_p808"](case.signals.waveform,
                                                             benchmark.sample_rate)}


def _recipe(module):
    return lambda benchmark: {"implementation": f"avjax {module.__name__} 1", **module.RECIPE,
                              **dnsmos.runtime()}


for _name, _meaning, _network, _function, _module in (
        ("OVRL", "sound as a whole", "dnsmos", _p835, dnsmos),
        ("SIG", "speech itself", "dnsmos", _p835, dnsmos),
        ("BAK", "background", "dnsmos", _p835, dnsmos),
        ("P808", "sound as a whole, asked for alone", "dnsmos_p808", _p808, dnsmos_p808)):
    declare(f"DNSMOS_{_name}", "up", f"{_meaning}, as DNSMOS predicts listeners', 1 to 5",
            family="sound", score=_function, recipe=_recipe(_module),
            needs=("audio", "waveform", "each", "package:onnxruntime", f"network:{_network}"))
