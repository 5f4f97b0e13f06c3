"""The benchmarks. Which metrics and protocols are ours by choice where no paper is named."""

from eval.benchmarks.named import papers
from eval.benchmarks.named.declaration import Named
from eval.data.recorded import MIDDLE, Frame
from eval.registry import AUDIO, MOTION

_SYNC_A = {"LSE_C": "protocol A, whole pictures", "LSE_D": "protocol A, whole pictures",
           "LSE_offset": "protocol A, whole pictures"}
_SYNC_B = {"LSE_C_face": "protocol B, tracked face", "LSE_D_face": "protocol B, tracked face",
           "LSE_offset_face": "protocol B, tracked face"}
_PICTURES = {"FID": "Inception-v3, 2048 features, every picture",
             "FVD": "I3D, 400 logits, every 16 pictures, resized whole",
             "FVD_crop": "I3D, 400 logits, every 16 pictures, middle square"}
_FOLLOWED = "landmarks of a face that is followed"
_EXPRESSION = dict.fromkeys(("F1_smiles", "F1_smiles_corners", "smile_corr",
                             "blinks_per_minute"), _FOLLOWED) | dict.fromkeys((
                                 "FD_e_smirk", "FD_h_smirk", "MSE_e_smirk", "var_e_smirk",
                                 "jaw_corr_smirk", "blinks_per_minute_smirk"),
                                 "SMIRK, of the followed face")
_LANDMARKS = dict.fromkeys(("F1_lips", "AV_offset", "AV_within_1", "AV_correlation"),
                           _FOLLOWED) | _EXPRESSION
_ENGLISH = {"WER_open": "wav2vec 2.0 CTC, greedy, Whisper's English normaliser",
            "CER_open": "wav2vec 2.0 CTC, greedy, Whisper's English normaliser",
            "WER_whisper": "Whisper, greedy, its English normaliser",
            "CER_whisper": "Whisper, greedy, its English normaliser"}
_VOICE = {"UTMOS": "UTMOS22-strong", "SIM": "WavLM-large with ECAPA-TDNN, to the own recording",
          "SIM_other": "WavLM-large with ECAPA-TDNN, to another recording of the speaker",
          "VoxSim": "its network, to the own recording, 1 to 6"}
_CEPSTRA = {"MCD": "mel-cepstral-distance", "MCD_world_audio": "pymcd's, to the recording"}
_SPEECH = {"mel_L1_dtw": "time-warped", **_CEPSTRA, **_VOICE,
           "DNSMOS_OVRL": "P.835, windows as published", "DNSMOS_P808": "P.808, the same windows"}
_LENGTH = {"length_error": "share of the recording's", "length_error_signed": "the same, with sign"}
_FACE_CODES = {name: "on the corpus' own face codes and head" for name in (
    "FD_e", "FD_h", "FD_e_pooled", "FD_h_pooled", "FK_e", "FK_h", "Div_e", "Div_h", "var_e",
    "BC_e", "BC_h", "BC_e_gap", "BC_h_gap")} | {
        f"BC_{part}_{form}": f"{name}'s form" for part in "eh" for form, name in (
            ("bailando", "Bailando"), ("said", "SAiD"), ("motion", "EMAGE"))}
_LISTENING = {name: "DIM, while the partner speaks" for name in (
    "FD_listen_e", "FD_listen_h", "FD_listen_e_pooled", "FD_listen_h_pooled", "MSE_listen_e",
    "MSE_listen_h", "STS_e", "STS_h", "SID_e", "SID_h", "var_listen_e", "var_listen_h",
    "PFD_e", "PFD_h", "RPCC_e", "RPCC_h")}
_TURNS = {f"{event}_{how}": "dGSLM's events" for event in ("ipu", "turn", "gap", "pause", "overlap")
          for how in ("per_minute", "mean_s", "W1_s")} | {
              "transfer_mean_s": "dGSLM's events", "transfer_W1_s": "dGSLM's events"}
_PORTRAIT = _SYNC_A | _SYNC_B | _PICTURES | _LANDMARKS
_VOICES = {name: "cosine of the voice's embedding" for name in (
    "voice_R@1", "voice_R@5", "voice_times_chance", "voice_cosine", "voice_mean_rank",
    "voice_chance@1", "voice_identities")}
_SPLIT = "no paper's numbers of this split are known here"

_ALL = (
    Named("puppets", "The built-in corpus: drawn faces whose every parameter is known.",
          corpora=("puppets",), splits=("valid", "test_speaker"), as_configured=True,
          given="what the system's task is given", free_length=True,
          no_column="drawn faces are in no paper, and say nothing about realism"),
    Named("clips", "Your own recordings.", corpora=("clips",), splits=("valid",),
          given="what the system's task is given", free_length=True,
          no_column="nobody else has these recordings"),
    Named("conversations", "Your own conversations, a channel and a face a person.",
          corpora=("conversations",), splits=("valid",), given="the script or the units of both",
          free_length=True, no_column="nobody else has these recordings"),
    Named("ljspeech", "Text to speech of one reader.", corpora=("ljspeech",), splits=("test",),
          given="text", made=(AUDIO,), free_length=True, metrics=_SPEECH | _ENGLISH | _LENGTH,
          no_column=_SPLIT),
    Named("avflow_50h", "AV-Flow's actor of 50 h: speech, face and head of text.",
          corpora=("avflow50h",), splits=("valid",), given="tokens of the text, with durations",
          metrics={"F1_lips": "--geometry and --lip_vertices", "F1_smiles": "--geometry"}
          | _FACE_CODES | {"mel_L1": "frame by frame"} | _CEPSTRA | _ENGLISH,
          columns=papers.AVFLOW | papers.AVFLOW_DYADIC),
    Named("audio2photoreal", "Conversations of Audio2Photoreal: face and head beside the partner's "
          "voice.", corpora=("audio2photoreal",), splits=("test",),
          given="the own sound, or tokens of it, and the partner's sound",
          metrics=_FACE_CODES | {"mel_L1": "frame by frame"} | _CEPSTRA
          | _ENGLISH, no_column=_SPLIT),
    Named("seamless_dyads", "Held-out interactions of two people in Seamless Interaction.",
          corpora=("seamless",), splits=("test",), given="the script or the units of both, and a "
          "portrait of each", free_length=True,
          metrics=_SYNC_B | _PICTURES | _LANDMARKS | _LISTENING | _TURNS | _SPEECH | _ENGLISH,
          columns=papers.TAVID_DYADIC),
    Named("voxceleb2_voices", "Face to voice: which of the voices of VoxCeleb2's test speakers is "
          "the face's?", corpora=("voxceleb2",), splits=("test",), given="a portrait",
          made=(AUDIO,), free_length=True, metrics=_VOICES | _VOICE, columns=papers.TAVID_VOICES,
          frame=Frame(25, MIDDLE, 224)),
    Named("vico_listening", "ViCo: a face that listens.", corpora=("vico",), splits=("test",),
          given="the listener's portrait, the speaker's film", made=(MOTION,),
          metrics=_LISTENING | _PICTURES | _EXPRESSION, no_column=_SPLIT),
    Named("l2l_listening", "Learning to Listen: DECA's codes of a face that listens.",
          corpora=("l2l",), splits=("test",), given="the speaker's codes and spectrogram",
          made=(MOTION,), metrics=_LISTENING, no_column=_SPLIT),
    Named("hdtf", "Talking heads driven by speech.", corpora=("hdtf",), splits=("valid",),
          given="a portrait and the recording's sound", made=(MOTION,), metrics=_PORTRAIT,
          frame=Frame(25, MIDDLE, 512),
          no_column="peers report it, on subsets that nobody publishes; no number is known here"),
    Named("portraits_en", "Talking portraits in English: speech and face of text.",
          corpora=("talker", "talkvid", "hdtf"), splits=("test", "valid"), free_length=True,
          given="text, a portrait, a voice", metrics=_PORTRAIT | _SPEECH | _ENGLISH | _LENGTH,
          frame=Frame(25, MIDDLE, 512),
          no_column="Talker-T2AV compares on such portraits; its numbers are not known here"),
    Named("portraits_zh", "Talking portraits in Chinese: speech and face of text.",
          corpora=("talker", "talkvid"), splits=("test", "valid"), free_length=True,
          given="text, a portrait, a voice", metrics=_PORTRAIT | _SPEECH | _LENGTH,
          frame=Frame(25, MIDDLE, 512),
          no_column="Talker-T2AV compares on such portraits; its numbers are not known here, and "
          "no recogniser of Chinese is"),
)
TABLE = {one.name: one for one in _ALL}
