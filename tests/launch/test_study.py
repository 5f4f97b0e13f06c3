"""avjax study, through its command: from films to a page, from ratings to a report."""

import json

from eval.study import ratings
from tests.eval.test_study import answered, media
from tests.launch.test_command import avjax


def test_study_from_media_to_report(tmp_path):
    media(tmp_path, ("ours", "truth"), ("a", "b"))
    given = ["--media=ours=ours", "--media=truth=truth"]
    made = avjax("study", "export", *given, "--out=study", "--raters=4", cwd=tmp_path)
    assert made.returncode == 0 and "keep back:  study/key.json" in made.stdout, made.stderr
    assert "2 items, conditions ours, truth; 6 recordings a rater" in made.stdout
    key = ratings.read_key(tmp_path / "study" / "key.json")

    def opinion(rater, trial, question):
        return trial.get("accept") and trial["accept"][0] or str(
            4 + (trial["condition"] == "truth") - (rater == 1))

    files = [answered(tmp_path / f"{r}.csv", key, opinion, raters=[r]).name for r in range(1, 5)]
    done = avjax("study", "score", "--key=study/key.json", *files, "--out=report.json",
                 cwd=tmp_path)
    assert done.returncode == 0 and "4 raters counted" in done.stdout, done.stderr
    found = json.loads((tmp_path / "report.json").read_text())["questions"]["overall"]
    assert found["conditions"]["ours"]["mean"] == 3.75 and found["agreement"]["icc_k"] > 0.5
    # what has no spread tells no number of raters
    assert "raters for 0.2: not known" in done.stdout

    failed = avjax("study", "score", files[0], "--key=study/key.json", "--raters=3", cwd=tmp_path)
    assert failed.returncode == 2 and failed.stderr.startswith("error: --raters means nothing here")
