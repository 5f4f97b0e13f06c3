"""What papers report, number by number. A number of a metric whose definition is not published, or
is another one than ours, says so; a number that is not known here is left out.
"""

from collections.abc import Mapping

from eval.benchmarks.named.declaration import Column

_AVFLOW = "AV-Flow (Chatziagapi et al. 2025), table of its results"
_CAVEATS = {
    "F1_lips": "its threshold is not published; ours is 2 % of the mouth's width",
    "FD_e": "on the release's expression codes, whether of each clip or of all is not published",
    "Div_e": "'standard deviation across samples': of frames or clips is not published",
    "Div_h": "'standard deviation across samples': of frames or clips is not published",
    "BC_e": "direction, threshold and width are not published",
    "BC_h": "direction, threshold and width are not published",
    "MCD": "neither this package's scale nor those of pymcd and python-MCD: compare within the "
           "column only",
    "WER_open": "the recogniser is not named; probably torchaudio's wav2vec 2.0, the family of the "
                "model's own input tokens",
}
_NAMES = tuple(_CAVEATS)[:1] + ("FD_e", "Div_h", "Div_e", "BC_h", "BC_e", "MCD", "WER_open")
_NOTE = "which recordings are scored is not said with the numbers"


def _avflow(row: str, *numbers: float) -> Column:
    """Numbers in the order of _NAMES."""
    return Column(f"{_AVFLOW}, {row}", dict(zip(_NAMES, numbers, strict=True)), _NOTE, _CAVEATS)


AVFLOW: Mapping[str, Column] = {
    "paper": _avflow("AV-Flow", .964, .861, .029, .680, .258, .229, .900, .157),
    "paper: separate": _avflow("separate towers", .933, .981, .023, .614, .218, .184, 1.009, .179),
    "paper: shared": _avflow("shared weights", .910, .862, .024, .664, .208, .174, .986, .287),
    "paper: cascaded": _avflow("cascaded", .848, 1.223, .026, .571, .222, .222, 1.009, .179),
    "paper: TTSF*": _avflow("TTSF*", .929, .962, .023, .630, .233, .211, 1.229, .285),
}


def _guided(row: str, smiles: float, distance: float, lips: float) -> Column:
    names = ("F1_smiles", "FD_e", "F1_lips")
    caveats = {name: _CAVEATS[name] for name in names[1:]} | {
        "F1_smiles": "its threshold is not published"}
    return Column(f"AV-Flow (Chatziagapi et al. 2025), dyadic setting, {row}",
                  dict(zip(names, (smiles, distance, lips), strict=True)), _NOTE, caveats)


AVFLOW_DYADIC: Mapping[str, Column] = {
    "paper: guided": _guided("with guidance", .685, .845, .933),
    "paper: no guidance": _guided("without guidance", .611, .861, .964),
}

TAVID_DYADIC: Mapping[str, Column] = {
    "paper": Column(
        "TAVID (arXiv:2512.20296), its results", {"FID": 16.625, "FVD": 179.305,
                                                  "LSE_C_face": 6.457},
        "which recordings these are of is not public; people's ratings (1 to 5) of Seamless clips "
        "are 3.75 +- .23 for sight, 3.80 +- .23 for lips and 3.84 +- .24 for turn-taking",
        {"FID": "against films; how many pictures is not public",
         "FVD": "resize and number of clips are not public",
         "LSE_C_face": "protocol A or B is not public; B is taken"})}

TAVID_VOICES: Mapping[str, Column] = {
    name: Column(f"TAVID (arXiv:2512.20296), {row}", note=note, elsewhere={"VoxSim": number})
    for name, row, number, note in (
        ("paper", "TAVID", .380, "VoxSim is another network than the SIM here, on a scale of its "
         "own; people rate how well voice and face match 3.87 +- .19 of 5"),
        ("paper: YourTTS", "YourTTS, given a voice", .662, "prompted by sound, not by a face"),
        ("paper: CoVoMix", "CoVoMix, given a voice", .659, "prompted by sound, not by a face"))}
