"""A study of people: orders, blinding, what is read of ratings, and what they say."""

import collections
import csv
import json

import numpy as np
import pytest
import soundfile

from avjax.errors import UserError
from eval.study import design, export, ratings, score, statistics, stimuli, text

CONDITIONS = ("ours", "theirs", "truth")


def media(folder, names=CONDITIONS, items=("a", "b/c", "d"), seconds=0.2):
    """{condition: {item: file}} of tones; returns what stimuli.conditions makes of the folders."""
    for k, name in enumerate(names):
        for j, item in enumerate(items):
            path = folder / name / f"{item}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            time = np.arange(int(8000 * seconds)) / 8000
            soundfile.write(path, 0.1 * (k + 1) * np.sin(2000 * time * (j + 1)), 8000)
    return stimuli.conditions([], [f"{name}={folder / name}" for name in names], [], [])


def written(folder, kind="mos", **options):
    found = media(folder / "media")
    options = {"asked": export.questions([], kind), "raters": 6, "instructed": 1} | options
    return export.write(folder / "study", found, stimuli.items(found, 0, False, 0), kind=kind,
                        **options)


def answered(path, key, say, raters=None, **changed):
    """A CSV of what `say(rater, trial, question)` says, as the page writes it."""
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(ratings.COLUMNS)
        for rater in raters or range(1, len(key["orders"]) + 1):
            for position, trial in enumerate(key["orders"][rater - 1], 1):
                for question in key["questions"]:
                    row = dict(study=key["study"], rater=rater, position=position, trial=trial,
                               question=question, seconds=1,
                               answer=say(rater, key["trials"][trial], question)) | changed
                    table.writerow(row[c] for c in ratings.COLUMNS)
    return path


# ---- design


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_square_is_balanced(n):
    rows = design.square(n)
    places = collections.Counter((k, x) for row in rows for k, x in enumerate(row))
    after = collections.Counter(pair for row in rows for pair in zip(row, row[1:], strict=False))
    assert len(places) == n * n and len(set(places.values())) == 1
    assert len(after) == n * (n - 1) and len(set(after.values())) <= 1


def test_orders_are_balanced_and_seeded():
    full = design.orders(5, 3, 6, "full", 1)
    for own in full:
        assert sorted(own) == [(i, c) for i in range(5) for c in range(3)]
        assert sorted(i for i, _ in own[:5]) == list(range(5))  # every item before any again
    first = collections.Counter(pair for own in full for pair in own[:5])
    assert set(first.values()) == {2} and len(first) == 15
    latin = design.orders(5, 3, 6, "latin", 1)
    assert all(len(own) == 5 for own in latin)
    assert collections.Counter(x for own in latin for x in own) == first
    assert design.orders(5, 3, 6, "full", 1) == full != design.orders(5, 3, 6, "full", 2)
    for order in (full, latin):
        left = collections.Counter(x for own in design.sides(order) for x in own)
        assert all(left[i, p, True] == left[i, p, False] for i in range(5) for p in range(3))
    mixed = design.with_checks(list(range(10)), ["x", "y"], 0, 3)
    assert [x for x in mixed if x not in ("x", "y")] == list(range(10)) and mixed[0] == 0
    assert {min(map(mixed.index, "xy")) < 6, max(map(mixed.index, "xy")) > 5} == {True}


# ---- export


def test_page_is_blind(tmp_path):
    key = written(tmp_path, catch=[f"{tmp_path}/media/truth/a.wav=1,2"])
    folder = tmp_path / "study"
    assert {p.name for p in folder.iterdir()} == {"page", "key.json"}
    assert ratings.read_key(folder / "key.json") == json.loads(json.dumps(key))
    page = (folder / "page" / "index.html").read_text()
    assert not any(name in page for name in (*CONDITIONS, "b/c", "accept", "http"))
    files = {p.name: p.read_bytes() for p in (folder / "page" / "media").iterdir()}
    assert files.keys() == {f for trial in key["trials"].values() for f in trial["media"]}
    for file, x in key["stimuli"].items():
        assert files[file] == (tmp_path / "media" / x["condition"]
                               / f"{x['item']}.wav").read_bytes()
    # names in the page's order tell nothing of the conditions' order
    listed = [t["id"] for t in json.loads(page.partition("application/json>")[2]
                                          .partition("</script>")[0])["trials"]]
    assert listed == sorted(key["trials"]) and len(listed) == 9 + 2
    checks = [t for t in key["trials"].values() if "accept" in t]
    assert [t["accept"] for t in checks] == [["2"], ["1", "2"]]


def test_same_study_again_another_refused(tmp_path):
    key = written(tmp_path)
    before = (tmp_path / "study" / "page" / "index.html").stat().st_mtime_ns
    assert written(tmp_path) == key
    assert (tmp_path / "study" / "page" / "index.html").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="another study.*under way"):
        written(tmp_path, seed=1)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".study")] == []


def test_missing_media_are_named(tmp_path):
    found = media(tmp_path / "media")
    (tmp_path / "media" / "theirs" / "d.wav").unlink()
    found = stimuli.conditions([], [f"{n}={tmp_path / 'media' / n}" for n in CONDITIONS], [], [])
    with pytest.raises(UserError, match="lacks media; where: theirs; expected: d"):
        stimuli.items(found, 0, False, 0)
    assert stimuli.items(found, 0, True, 0) == ["a", "b/c"]
    assert len(stimuli.items(found, 1, True, 0)) == 1
    (tmp_path / "media" / "ours" / "a.wav").write_bytes(b"no sound")
    with pytest.raises(UserError, match="ours/a.wav"):
        export.write(tmp_path / "study", found, ["a"], kind="mos", asked={"q": "?"})
    assert not (tmp_path / "study").exists()
    with pytest.raises(UserError, match="no such folder"):
        stimuli.conditions([], ["x=/nowhere"], [], [])
    with pytest.raises(UserError, match="--keep_media"):
        stimuli.conditions([str(tmp_path / "none")], [], [], [])
    with pytest.raises(UserError, match="two conditions of one name"):
        stimuli.conditions([], [f"x={tmp_path / 'media' / 'ours'}"] * 2, [], [])


def test_kept_media_of_evaluations(tmp_path):
    for run in ("one", "two"):
        for variant in ("model", "truth"):
            media(tmp_path / run / "media" / "valid", [variant], ["x", "y"])
    one = stimuli.conditions([str(tmp_path / "one")], [], [], ["truth"])
    assert {c: sorted(own) for c, own in one.items()} == {"truth": ["valid/x", "valid/y"]}
    both = stimuli.conditions([str(tmp_path / r) for r in ("one", "two")], [], ["valid"], [])
    assert set(both) == {"one/model", "one/truth", "two/model", "two/truth"}
    film = tmp_path / "one" / "media" / "valid" / "model" / "x.mp4"
    film.write_bytes(b"")
    chosen = [stimuli.conditions([str(tmp_path / "one")], [], [], ["model"], medium)["model"]
              for medium in ("", "audio", "video")]
    assert [own["valid/x"].suffix for own in chosen] == [".mp4", ".wav", ".mp4"]
    assert list(chosen[2]) == ["valid/x"]
    with pytest.raises(UserError, match="a film in one condition.*--medium=audio"):
        mixed = stimuli.conditions([str(tmp_path / "one")], [], [], [])
        stimuli.items(mixed, 0, False, 0)
    with pytest.raises(UserError, match="no such variant.*expected: model or truth; found: x"):
        stimuli.conditions([str(tmp_path / "one")], [], [], ["x"])


# ---- ratings


def test_ratings_that_are_wrong_are_refused(tmp_path):
    key = written(tmp_path)
    good = answered(tmp_path / "good.csv", key, lambda *x: "3", raters=[1])
    assert ratings.read(key, [good])[0].missed == 1  # the check wants a 2
    wrong = [({"answer": "6"}, "off the scale.*found: 6"), ({"study": "x"}, "another study"),
             ({"rater": 99}, "no such rater.*1 to 6"), ({"trial": "x"}, "did not get"),
             ({"question": "x"}, "no such question; .*overall"), ({"answer": ""}, None)]
    for changed, match in wrong:
        path = answered(tmp_path / "bad.csv", key, lambda *x: "3", raters=[2], **changed)
        if match:
            with pytest.raises(UserError, match=match + ".*"):
                ratings.read(key, [path])
        else:
            assert ratings.read(key, [path])[0].lacking == 9
    with pytest.raises(UserError, match="a rater twice.*rater 1, also in .*good.csv"):
        ratings.read(key, [good, good])
    lines = good.read_text().splitlines()
    for rows, match in (([*lines, lines[1]], "a trial answered twice"), (lines[:1], "no ratings"),
                        (["rater,mood", "1,5"], "'mood' unknown, 'study' missing"),
                        ([lines[0], "1,2"], "not a row")):
        (tmp_path / "odd.csv").write_text("\n".join(rows) + "\n")
        with pytest.raises(UserError, match=match):
            ratings.read(key, [tmp_path / "odd.csv"])
    with pytest.raises(UserError, match="unreadable ratings"):
        ratings.read(key, [tmp_path / "none.csv"])
    for content in ({}, key | {"trials": [], "orders": []}, {n: x for n, x in key.items()
                                                             if n != "questions"}):
        (tmp_path / "key.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match="not the key of a study"):
            ratings.read_key(tmp_path / "key.json")


def spreadsheet(rows, separator=",", *, quoted=False, ends="\r\n", above="", wider=0):
    """As a spreadsheet program saves a table."""
    mark = '"' if quoted else ""
    lines = [separator.join([f"{mark}{value}{mark}" for value in row] + [""] * wider)
             for row in rows]
    return above + ends.join(lines) + ends


@pytest.mark.parametrize("how", [
    dict(separator=";"), dict(separator="\t"), dict(separator=";", quoted=True, ends="\n"),
    dict(separator="\t", quoted=True, wider=2), dict(separator=";", above="sep=;\r\n"),
    dict(ends="\r"), dict(wider=3)], ids=str)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_what_spreadsheet_programs_save_is_read_as_the_page_saved_it(tmp_path, how, encoding):
    key = written(tmp_path, asked={"gefällt": "Wie gut?", "lips": "Lips?"})
    page = answered(tmp_path / "page.csv", key, lambda rater, trial, question: str(
        1 + (rater + len(question)) % 5), raters=[1, 3])
    with open(page, newline="") as file:
        rows = list(csv.reader(file))
    rows = [*rows[:5], [""] * len(rows[0]), *([f" {x}" for x in row] for row in rows[5:]), [""] * 7]
    path = tmp_path / "saved.csv"
    path.write_bytes(spreadsheet(rows, **how).encode(encoding))
    assert ratings.read(key, [path]) == ratings.read(key, [page])


@pytest.mark.parametrize(("content", "told"), [
    (b"", "no ratings in this file; .*found: an empty file"),
    (b"\xff\xfe", "no ratings in this file"),
    (b"\r\n,,,\r\n", "no ratings in this file"),
    (b"\xff\xfes", "unreadable ratings; .*UTF-8 or UTF-16"),
    (b"stud\xe9,rater\n", "unreadable ratings; .*UTF-8 or UTF-16"),
    ("rater;mood\r\n1;5\r\n".encode("utf-16"), "'mood' unknown, 'study' missing"),
    (b"study;rater;position;trial;question;answer;seconds\r\n", "found: a header alone"),
    (b"study;rater;position;trial;question;answer;seconds\r\ns;1;1\r\n",
     "not a row of ratings; where: .*saved.csv:2; expected: 7 values; found: 3"),
    (b"sep=;\nstudy;rater;position;trial;question;answer;seconds\n\nNAME;1;1;t99;lips;3;1\n",
     "a trial that this rater did not get; where: .*saved.csv:4; .*found: t99"),
    (b'study,rater,position,trial,question,answer,seconds\n"s,1,1,t,q,3,1\n', "unreadable"),
    (b"study,rater,rater,trial,question,answer,seconds\n", "'position' missing"),
    (b"PK\x03\x04\x14\x00\x06\x00", "other columns|unreadable"),  # .xlsx
], ids=range(12))
def test_what_is_no_file_of_ratings_is_one_line(tmp_path, content, told):
    key = written(tmp_path)
    path = tmp_path / "saved.csv"
    path.write_bytes(content.replace(b"NAME", key["study"].encode()))
    with pytest.raises(UserError, match=told) as error:
        ratings.read(key, [path])
    assert "\n" not in str(error.value)


def test_names_are_no_numbers_to_a_spreadsheet_program(tmp_path):
    """12e45 would come back as 1.2E+46."""
    key = written(tmp_path)
    assert all(name[0].isalpha() for name in (key["study"], *key["trials"]))


# ---- statistics


def test_agreement_as_published():
    table = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    # Shrout and Fleiss, 1979, tables 2 and 4
    assert statistics.icc(table) == pytest.approx((0.29, 0.62), abs=0.005)
    units = ["111", "22 32", "3333", "3333", "2222", "1234", "4444", "1121", "2222", "555", "11",
             "3"]
    said = {k: [int(x) for x in unit.replace(" ", "")] for k, unit in enumerate(units)}
    # Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011, example C
    assert statistics.krippendorff(said, nominal=True) == pytest.approx(0.743, abs=5e-4)
    assert statistics.krippendorff(said) == pytest.approx(0.849, abs=5e-4)
    assert statistics.krippendorff({0: [1, 1], 1: [1, 1]}) is None
    assert statistics.icc(np.ones((3, 3))) is None


def test_power_and_intervals_as_published():
    # G*Power 3, paired t test, two-sided, alpha 0.05, power 0.8
    for effect, raters in ((0.2, 199), (0.5, 34), (0.8, 15)):
        differences = np.array([-1.0, 1.0] * 8) * np.sqrt(15 / 16) / effect * 0.2
        assert statistics.raters_needed(0.2, differences) == raters
    assert statistics.raters_needed(0.2, [1.0, 1.0]) is None
    found = statistics.sign_test(8, 2)  # Wilson, 1927: 0.490 to 0.943
    assert (found["low"], found["high"]) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert found["p"] == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert statistics.half_width([1, 2, 3]) == pytest.approx(4.3027 / np.sqrt(3), rel=1e-4)
    assert statistics.half_width([1]) is None and statistics.sign_test(0, 0)["p"] is None


def test_opinions(tmp_path):
    key = written(tmp_path)
    level = {"ours": 4, "theirs": 3, "truth": 5}

    def opinion(rater, trial, question):
        if "accept" in trial:
            return "1" if rater == 6 else trial["accept"][0]
        return str(level[trial["condition"]] - (rater % 2 and trial["item"] == "a"))

    report = score.score(key, ratings.read(key, [answered(tmp_path / "r.csv", key, opinion)]))
    assert report["raters"] == [1, 2, 3, 4, 5] and report["excluded"] == [
        "rater 6: 1 attention checks missed"]
    found = report["questions"]["overall"]
    ours = found["conditions"]["ours"]
    values = [4 - (r % 2 and i == 0) for r in range(1, 6) for i in range(3)]
    assert ours["n"] == 15 and ours["mean"] == pytest.approx(np.mean(values))
    assert ours["half"] == pytest.approx(2.1448 * np.std(values, ddof=1) / np.sqrt(15), rel=1e-4)
    assert [(d["a"], d["b"], round(d["mean"], 6)) for d in found["differences"]] == [
        ("ours", "theirs", 1), ("ours", "truth", -1), ("theirs", "truth", -2)]
    assert 0.5 < found["agreement"]["alpha"] < 1 and found["agreement"]["stimuli"] == 9
    shown = text.text(report)
    assert "left out: rater 6" in shown and "ours - theirs: +1.00" in shown and "3.80" in shown
    assert "ICC(2,k)" in shown
    with pytest.raises(UserError, match="no rater passed.*--allow_missed"):
        score.score(key, ratings.read(key, [answered(tmp_path / "s.csv", key, lambda *x: "5",
                                                     raters=[6])]))


def test_preferences(tmp_path):
    key = written(tmp_path, "pairwise", ties=True, reference="truth")
    assert key["pairs"] == [("ours", "truth"), ("theirs", "truth")]

    def preferred(rater, trial, question):
        if "accept" in trial:
            return trial["accept"][0]
        if "theirs" in trial["conditions"]:
            return "="
        wanted = "ours" if rater in (1, 2) and trial["item"] == "a" else "truth"
        return "AB"[trial["conditions"].index(wanted)]

    report = score.score(key, ratings.read(key, [answered(tmp_path / "r.csv", key, preferred)]))
    ours, theirs = report["questions"]["overall"]["pairs"]
    assert (ours["n"], ours["ties"], theirs["ties"]) == (18, 0, 18)
    assert ours["rate"] == pytest.approx(2 / 18) and ours["p"] < 0.01 and ours["needed"] > 2
    assert ours["mean_raters"] == pytest.approx(2 / 18) and theirs["rate"] is None
    assert theirs["mean_raters"] == 0.5 and theirs["needed"] is None
    # every other rater saw a pair the other way round
    assert report["questions"]["overall"]["left"]["rate"] == pytest.approx(0.5, abs=0.12)
    assert "ours over truth: 11%" in text.text(report)
    with pytest.raises(UserError, match="two conditions"):
        export.study({"one": {}}, [], kind="pairwise", asked={}, ties=False, reference="",
                     layout="full", raters=1, seed=0, checks=[])
