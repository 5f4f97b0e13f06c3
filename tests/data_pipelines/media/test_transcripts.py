"""Every format says the same of one conversation; every defect is one line with file and line."""

import json

import pytest

from data_pipelines.media import transcripts
from data_pipelines.media.transcripts import Said, TranscriptError

WORDS = [["Hello", 0.5, 0.8], ["Ben.", 0.9, 1.25]], [["Fine,", 2.0, 2.5], ["thanks.", 2.5, 3.0]]
TURNS = [Said("Anna", "Hello Ben.", 0.5, 1.25), Said("Ben", "Fine, thanks.", 2.0, 3.0)]
TIMED = [Said(t.speaker, t.text, t.start, t.end, tuple(map(tuple, words)))
         for t, words in zip(TURNS, WORDS, strict=True)]


def objects(words, **more):
    return [dict(zip(("word", "start", "end"), w, strict=True), **more) for w in words]


def long_textgrid(tiers):
    text = ('File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0 \nxmax = 4 \n'
            f"tiers? <exists> \nsize = {len(tiers)} \nitem []: \n")
    for k, (name, spans) in enumerate(tiers, 1):
        text += (f'    item [{k}]:\n        class = "IntervalTier" \n        name = "{name}" \n'
                 f"        xmin = 0 \n        xmax = 4 \n        intervals: size = {len(spans)} \n")
        for i, (said, start, end) in enumerate(spans, 1):
            text += (f"        intervals [{i}]:\n            xmin = {start} \n"
                     f"            xmax = {end} \n            text = \"{said}\" \n")
    return text


def short_textgrid(tiers):
    values = ['File type = "ooTextFile"', '"TextGrid"', "", 0, 4, "<exists>", len(tiers)]
    for name, spans in tiers:
        values += ['"IntervalTier"', f'"{name}"', 0, 4, len(spans)]
        values += [v for said, *span in spans for v in (*span, f'"{said}"')]
    return "\n".join(map(str, values)) + "\n"


SENTENCES = [(t.speaker, [("", 0, t.start), (t.text, t.start, t.end)]) for t in TURNS]
BY_WORD = [(f"{t.speaker} - words", words) for t, words in zip(TURNS, WORDS, strict=True)]
FORMS = {
    "segments.json": (json.dumps({"segments": [
        {"start": t.start, "end": t.end, "text": f" {t.text}", "speaker": t.speaker,
         "words": objects(w)} for t, w in zip(TURNS, WORDS, strict=True)]}), TIMED),
    "words.json": (json.dumps({"words": objects(WORDS[0], speaker="Anna")
                               + objects(WORDS[1], speaker="Ben")}), TIMED),
    "table.stm": (";; a comment\n" + "".join(f"talk 1 {t.speaker} {t.start} {t.end} <o,f0> {t.text}"
                                             "\n" for t in TURNS)
                  + "talk 1 inter_segment_gap 3 4\n", TURNS),
    "words.rttm": ("".join(f"LEXEME talk 1 {s} {e - s} {w} lex {t.speaker} <NA>\n"
                           for t, words in zip(TURNS, WORDS, strict=True) for w, s, e in words)
                   + "SPEAKER talk 1 0.5 0.75 <NA> <NA> Anna <NA> <NA>\n", TIMED),
    "long.TextGrid": (long_textgrid(SENTENCES), TURNS),
    "short.TextGrid": (short_textgrid(SENTENCES), TURNS),
    "words.TextGrid": (long_textgrid([*BY_WORD, ("Anna - phones", [("h", 0.5, 0.6)])]), TIMED),
    "voices.vtt": ("WEBVTT - talk\n\nNOTE\nnothing\n\n1\n00:00.500 --> 00:01.250 align:start\n"
                   "<v.loud Anna>Hello <i>Ben</i>.</v>\n\n00:00:02.000 --> 00:00:03.000\n"
                   "<v Ben>Fine,\nthanks.\n", TURNS),
    "names.srt": ("1\n00:00:00,500 --> 00:00:01,250\nAnna: Hello Ben.\n\n2\n"
                  "00:00:02,000 --> 00:00:03,000\nBen: Fine,\nthanks.\n", TURNS),
    "script.txt": ("# a comment\nAnna: Hello Ben.\n\nBen: Fine, thanks.\n",
                   [Said(t.speaker, t.text) for t in TURNS]),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("names", [(), ("anna", "BEN")])
def test_each_form_says_the_same(tmp_path, name, names):
    text, expected = FORMS[name]
    (tmp_path / name).write_text(text)
    found = transcripts.read(tmp_path / name, names=names, duration=4)
    spelled = {n.casefold(): n for n in names}
    expected = [Said(spelled.get(s.speaker.casefold(), s.speaker), s.text, s.start, s.end, s.words)
                for s in expected]
    assert [(s.speaker, s.text, s.words) for s in found] == [(s.speaker, s.text, s.words)
                                                             for s in expected]
    times = [(s.start, s.end) for s in expected]
    if times[0][0] is None:
        assert [(s.start, s.end) for s in found] == times
    else:
        assert [t for s in found for t in (s.start, s.end)] == pytest.approx(
            [t for pair in times for t in pair])


def test_a_file_belongs_to_the_speaker_it_is_called_after(tmp_path):
    for name, words in zip(("talk_anna.words.json", "ben.json"), WORDS, strict=True):
        (tmp_path / name).write_text(json.dumps(words))
    assert transcripts.read(sorted(tmp_path.iterdir()), names=("Anna", "Ben")) == sorted(
        TIMED, key=lambda s: s.start)


def test_words_without_times_are_in_the_text_alone(tmp_path):
    seamless = {"id": "V00", "metadata:transcript": [
        {"words": objects([["12", None, None], *WORDS[0]], score=1), "start": 0.25, "end": 1.25,
         "transcript": "12 Hello Ben."}], "metadata:vad": []}
    (tmp_path / "V00.json").write_text(json.dumps(seamless))
    assert transcripts.read(tmp_path / "V00.json") == [
        Said(None, "12 Hello Ben.", 0.25, 1.25, TIMED[0].words)]


def test_a_list_of_words_is_cut_at_silences(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps([*WORDS[0], *WORDS[1]]))
    assert [s.text for s in transcripts.read(tmp_path / "x.json")] == [t.text for t in TURNS]


def test_rttm_beside_stm_says_who_else_spoke_under_its_name(tmp_path):
    (tmp_path / "t.stm").write_text("".join(f"t 1 {t.speaker} {t.start} {t.end} {t.text}\n"
                                            for t in TURNS))
    spans = [("s1", 0.4, 0.9), ("s0", 2.1, 0.9), ("s1", 2.3, 0.25)]
    (tmp_path / "t.rttm").write_text("".join(f"SPEAKER t 1 {a} {d} <NA> <NA> {who} <NA> <NA>\n"
                                             for who, a, d in spans))
    found = transcripts.read([tmp_path / "t.rttm", tmp_path / "t.stm"], names=("Anna", "Ben"))
    assert found == [*TURNS, Said("Anna", "", 2.3, 2.55)]


def test_scripts_keep_overlaps_and_back_channels(tmp_path):
    (tmp_path / "x.txt").write_text("Anna: I went [Ben: yeah] home.\nBen+: But...\n")
    assert transcripts.read(tmp_path / "x.txt") == [Said("Anna", "I went [Ben: yeah] home."),
                                                    Said("Ben", "But...", overlap=True)]
    (tmp_path / "y.txt").write_text("Only words.\nAnd more: of them.")
    assert transcripts.read(tmp_path / "y.txt") == [Said(None, "Only words. And more: of them.")]


SEVERAL = {  # what might be passed over without a word
    "x.json": (json.dumps({"words": [*objects(WORDS[0]), {"text": "all right"}]}),
               "Hello Ben. all right"),
    "x.rttm": ("LEXEME t 1 2 1 b lex Anna\nLEXEME t 1 1 1 a lex Anna\n", "a b"),
    "x.vtt": ("WEBVTT\n00:01.000 --> 00:02.000\na\n\nNOTE 7\n00:02.000 --> 00:03.000\nb", "a b"),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_nothing_that_is_said_is_passed_over(tmp_path, name):
    text, expected = SEVERAL[name]
    (tmp_path / name).write_text(text)
    assert " ".join(s.text for s in transcripts.read(tmp_path / name)) == expected


BAD = {
    "end before start": ("x.json", '[["a", 0, 1],\n ["b", 3, 2]]', 2),
    "overlapping words": ("x.json", '[["a", 0, 1],\n\n ["b", 0.5, 2]]', 3),
    "times past the end": ("x.stm", "t 1 Anna 0 1 a\nt 1 Ben 3 9 b\n", 2),
    "unknown speaker": ("x.vtt", "WEBVTT\n\n00:01.000 --> 00:02.000\n<v Carl>Hi", 3),
    "not a time": ("x.rttm", "SPEAKER t 1 NaN 1 <NA> <NA> Anna\n", 1),
    "a time before the start": ("x.stm", "t 1 Anna -1 1 a\n", 1),
    "not JSON": ("x.json", '[["a", 0, 1],\n', 2),
    "not a transcript": ("x.json", '{"language": "en"}', 1),
    "not a word": ("x.json", '[["a", 0, 1],\n ["b"]]', 2),
    "not a segment": ("x.json", '{"segments":\n [5]}', 2),
    "several recordings in one table": ("x.stm", "t 1 Anna 0 1 a\nu 1 Ben 1 2 b\n", 2),
    "not RTTM": ("x.rttm", "SPEAKER t 1 0 1\n", 1),
    "not STM": ("x.stm", "\nt 1 Anna 0\n", 2),
    "not a TextGrid": ("x.TextGrid", long_textgrid(SENTENCES)[:-30], 35),
    "not WebVTT": ("x.vtt", "00:01.000 --> 00:02.000\nHi", 1),
    "not a cue": ("x.srt", "1\n00:00:01,000 -> 00:00:02,000\nHi\n", 2),
    "not a turn": ("x.txt", "Anna: Hi.\nBen: Hm.\nwell\n", 3),
    "an empty turn": ("x.txt", "Anna: Hi.\nBen:\n", 2),
    "an empty transcript": ("x.srt", "\n", 0),
    "not a speaker": ("x.json", '[{"word": "a",\n "speaker": {}}]', 1),
    "unknown kind of transcript": ("x.doc", "Anna: Hi.", 0),
}


AGAIN = {  # and other files of the same reasons
    "a tier more than it says": ("not a TextGrid", "y.TextGrid", long_textgrid(SENTENCES).replace(
        "size = 2 \nitem", "size = 1 \nitem"), 24),
    "75 seconds": ("not a cue", "y.vtt", "WEBVTT\n\n00:75.000 --> 01:19.000\nHi", 3),
}


@pytest.mark.parametrize("reason", [*BAD, *AGAIN])
def test_bad_files_say_what_and_in_which_line(tmp_path, reason):
    reason, name, text, line = AGAIN.get(reason) or (reason, *BAD[reason])
    (tmp_path / name).write_text(text)
    with pytest.raises(TranscriptError) as error:
        transcripts.read(tmp_path / name, names=("Anna", "Ben"), duration=4)
    assert error.value.reason == reason
    assert f"{name}, line {line};" in str(error.value) or (not line and name in str(error.value))
