"""report.html: one self-contained page with the table, the targets, training curves and some
examples to see and hear beside the ground truth."""

import base64
import datetime
import html
import io
import json
import pathlib
import tempfile

import numpy as np
from PIL import Image

from avjax.errors import UserError
from avjax.storage import atomic
from data_pipelines.media import write_media
from eval import plots
from eval.signals import AUDIO, MOTION
from eval.tables import cell, count, number, shown

REPORT_FILE = "report.html"
MEANING = {
    "F1_lips": "mouth closed on the right frames",
    "F1_lips_dtw": "the same, frames matched by what is heard",
    "F1_lips_clip": "mouth closed where the recorded one is",
    "FD_e": "Fréchet distance of face codes, per clip",
    "FD_h": "Fréchet distance of head pose, per clip",
    "FD_e_pooled": "the same, all clips' frames together",
    "FD_h_pooled": "the same, all clips' frames together",
    "FK_e": "Fréchet distance of face motion", "Div_e": "diversity of face codes",
    "Div_h": "diversity of head pose", "BC_e": "face motion on audio onsets",
    "BC_h": "head motion on audio onsets", "mel_L1": "mean error of the mel spectrogram",
    "mel_L1_dtw": "the same after time warping",
    "BC_e_gap": "distance of BC_e from the truth's, clip by clip",
    "BC_h_gap": "the same for the head", "FD_m": "Fréchet distance of motion codes, per clip",
    "FD_m_pooled": "the same, all clips' frames together",
    "FK_m": "Fréchet distance of the codes' changes", "Div_m": "diversity of motion codes",
    "BC_m": "motion on audio onsets", "BC_m_gap": "distance of BC_m from the truth's, clip by clip",
    "MCD": "mel-cepstral distance after time warping",
    "MCD_audio": "the same, from the clip's own audio",
    "WER": "word error rate of the recogniser",
    "length_error": "how far the length is off, share of the true one",
    "length_error_signed": "the same with its sign: below 0 is too short",
    "stop_within_2": "share of examples that stop within 2 patches of the true end",
    "FD_listen_e": "Fréchet distance of the face while listening",
    "FD_listen_h": "the same of the head", "PFD_e": "paired with its partner's face",
    "PFD_e_shuffled": "paired with its partner at another time",
    "PFD_h": "paired with its partner's head",
    "PFD_h_shuffled": "paired with its partner at another time",
    "RPCC_e": "correlation with the partner's face, off the truth's",
    "RPCC_e_other": "the same with other partners",
    "RPCC_h": "correlation with the partner's head, off the truth's",
    "RPCC_h_other": "the same with other partners", "ipu_per_minute": "stretches of speech",
    "ipu_mean_s": "their mean length in seconds", "turn_per_minute": "turns",
    "turn_mean_s": "their mean length in seconds", "gap_per_minute": "silences between turns",
    "gap_mean_s": "their mean length in seconds", "pause_per_minute": "silences inside turns",
    "pause_mean_s": "their mean length in seconds", "overlap_per_minute": "several speak at once",
    "overlap_mean_s": "their mean length in seconds",
    "voice_R@1": "the face's voice is nearest to the true one",
    "voice_R@5": "... among the five nearest",
    "voice_times_chance": "R@1 as a multiple of guessing",
    "voice_cosine": "cosine of the face's voice and the true one",
}
BETTER = {"up": "higher is better", "down": "lower is better",
          "truth": "nearer to the truth is better",
          "zero": "nearer to 0 is better"}
STYLE = """
:root{--ink:#1f2328;--soft:#667085;--line:#e4e7ec;--good:#067647;--bad:#b42318;--accent:#c2410c}
*{box-sizing:border-box}body{margin:0;background:#fff;color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",
Roboto,"Helvetica Neue",Arial,sans-serif}main{max-width:1060px;margin:0 auto;padding:40px 24px 80px}
h1{font-size:28px;letter-spacing:-.02em;margin:0 0 4px}h2{font-size:19px;margin:44px 0 10px;letter-spacing:-.01em}
h3{font-size:15px;margin:26px 0 8px}.soft{color:var(--soft)}.note{color:var(--soft);font-size:13px;margin:6px 0}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th,td{padding:7px 10px;text-align:right;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft);font-size:12.5px}th:first-child,td:first-child{text-align:left;padding-left:0}
td b{font-weight:600}td small{display:block;color:var(--soft);font-size:11.5px}td.model{background:#fff7ed}
.targets{list-style:none;padding:0;margin:14px 0 0;display:grid;gap:6px 24px;font-size:14px;
grid-template-columns:repeat(auto-fill,minmax(320px,1fr))}
.met:before{content:"met";color:var(--good)}.missed:before{content:"missed";color:var(--bad)}
.met:before,.missed:before{font-weight:700;font-size:12px;margin-right:8px;display:inline-block;min-width:46px}
.example{border-top:1px solid var(--line);padding-top:18px;margin-top:22px}.said{font-size:17px;margin:0 0 2px}
.pair{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:18px;margin:12px 0}
.pair figcaption,.plots figcaption{font-size:12.5px;color:var(--soft);
margin-bottom:4px}figure{margin:0}img{max-width:100%;height:auto;display:block}
video{width:100%;max-width:300px;border-radius:6px;background:#000}audio{width:100%;max-width:420px;height:36px}
.plots{display:grid;grid-template-columns:1fr 1fr;gap:18px;align-items:start}details{margin-top:30px}
pre{background:#f8f9fb;border:1px solid var(--line);border-radius:6px;padding:12px;overflow:auto;font-size:12px}
@media(max-width:760px){.plots,.pair{grid-template-columns:1fr}main{padding:24px 14px}.scroll{overflow-x:auto}}
"""


def write(out_dir, results: dict, samples: list[dict], workdir=None) -> pathlib.Path:
    """Writes report.html whole or not at all.

    Args:
      out_dir: where.
      results: what `eval.runner.evaluate` returned.
      samples: from `eval.runner.samples`: examples with the Signals of model variants and truth.
      workdir: a training run's folder; its metrics.jsonl gives the curves.
    """
    name = html.escape(results.get("name") or results["benchmark"])
    about = [f"benchmark {results['benchmark']}", f"parameters {results['params']}"]
    about += [f"step {results['step']}"] if results.get("step") is not None else []
    about += [datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")]
    parts = [f"<h1>{name}</h1><p class=soft>{html.escape(' · '.join(about))}</p>"]
    if "puppets" in results["benchmark"]:
        parts.append("<p class=note>Puppets are drawn faces with synthetic voices whose every "
                     "parameter is known. These numbers show that the model learned and that the "
                     "plumbing works; they say nothing about realism.</p>")
    for split in results["summary"]:
        parts.append(_split_section(split, results))
    history = read_history(pathlib.Path(workdir) / "metrics.jsonl") if workdir else {}
    if history:
        parts.append(
            f"<h2>Training</h2>{_img(plots.png(plots.training_curves(history)), 'training curves')}")
    if samples:
        parts.append("<h2>Examples</h2><p class=note>Both sides go through the same codecs. None "
                     "of these was seen in training.</p>")
        parts += [_example(s) for s in samples]
    recipes = html.escape(json.dumps(results["recipes"], indent=1))
    parts.append("<details><summary>How each number is "
                 f"made</summary><pre>{recipes}</pre></details>")
    page = ("<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport "
            "content='width=device-width'>"
            f"<title>{name}</title><style>{STYLE}</style><main>{''.join(parts)}</main></html>\n")
    path = pathlib.Path(out_dir) / REPORT_FILE
    atomic.write(path, page)
    return path


def _split_section(split: str, results: dict) -> str:
    variants, models = results["summary"][split], results["models"]
    truth = "ground truth" if "codec" in variants else "ground truth via codec"
    titles = {"truth": truth, "codec": "codec alone", "shuffled": "another one",
              "mean": "mean frame"}
    head = "".join(f"<th>{titles.get(v, v)}</th>" for v in variants)
    rows = []
    for metric, better in shown(variants):
        cells = "".join(
            f"<td{' class=model' if v in models else ''}>{_cell(variants[v].get(metric))}</td>"
                        for v in variants)
        meaning = f"{MEANING.get(metric, '')}; {BETTER[better]}"
        rows.append(f"<tr><td><b>{metric}</b><small>{meaning}</small></td>{cells}</tr>")
    targets = "".join(
        f"<li class={'met' if t['met'] else 'missed'}>{html.escape(t['metric'])} "
        f"{html.escape(t['target'])} "
        f"<span class=soft>({number(t['value'])} against {number(t['limit'])})</span></li>"
        for t in results["targets"].get(split, ()))
    return (f"<h2>{html.escape(split)} <span class=soft>{count(results, split)} "
            "examples</span></h2>"
            f"<div class=scroll><table><tr><th>metric</th>{head}</tr>{''.join(rows)}</table></div>"
            + (f"<ul class=targets>{targets}</ul>" if targets else "")
            + "<p class=note>Small print: 95 % bootstrap interval over examples.</p>")


def _cell(entry) -> str:
    text = cell(entry)
    value, _, interval = text.partition(" [")
    return value + (f"<small>{interval.rstrip(']').replace(', ', ' – ')}</small>" if interval
                    else "")


def _example(sample: dict) -> str:
    models, truth, benchmark = sample["models"], sample["truth"], sample["benchmark"]
    names = {"model": "generated"}  # the only variant of a system with one task
    models = {names.get(variant, variant): signals for variant, signals in models.items()}
    figures = []
    for who, signals in models.items():
        if AUDIO in signals.scored & truth.scored:
            pair = plots.spectrogram_pair(signals.mel_TM, truth.mel_TM, signals.mel_rate)
            figures.append(
                f"<figure><figcaption>{html.escape(who)}</figcaption>{_img(plots.png(pair), 'spectrograms')}"
                           "</figure>")
    moving = {who: signals for who, signals in models.items() if MOTION in signals.scored
              & truth.scored}
    if moving:
        pairs, threshold = curve_pairs(benchmark, moving, truth)
        figures.append(_img(plots.png(plots.curves(pairs, benchmark.motion_fps, threshold)),
                            "motion curves"))
    players = "".join(_player(benchmark, who, signals, sample["identity"])
                      for who, signals in (models | {"ground truth via codec": truth}).items())
    heard = ""
    if benchmark.has_words:
        words = {who: signals.transcript for who, signals in models.items()
                 if AUDIO in signals.scored}
        heard = "".join(f"{html.escape(who)} “{html.escape(said)}”, " for who,
                        said in words.items())
        heard = (f"<p class=note>heard by the recogniser: {heard}ground truth "
                 f"“{html.escape(truth.transcript)}”</p>")
    return (f"<section class=example><p class=said>“{html.escape(sample['text'])}”</p><p "
            "class=note>"
            f"{html.escape(sample['split'])} · {html.escape(sample['id'])}</p>{heard}"
            f"<div class=pair>{players}</div><div class=plots>{''.join(figures)}</div></section>")


def _player(benchmark, title: str, signals, identity) -> str:
    video = video_and_poster(benchmark, signals, identity)
    sound = signals.waveform if signals.has_audio else np.zeros(1, np.float32)
    player = (f"<video controls preload=metadata poster='{_data('image/jpeg', video[1])}' "
              f"src='{_data('video/mp4', video[0])}'></video>" if video else
              "<audio controls "
              f"src='{_data('audio/wav', wav_bytes(sound, benchmark.sample_rate))}'></audio>")
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{player}</figure>"


def curve_pairs(benchmark, models: dict, truth):
    """([(name, {who: generated}, true)], closure threshold or None) to draw over time at
    `benchmark.motion_fps`; `models`
    {who: Signals}."""
    rows, threshold = [], None
    if not benchmark.decoder.has_face:
        liveliest = np.argsort(-truth.codes_TC.std(0), kind="stable")[:2]
        return [(f"motion code {k}", {who: s.codes_TC[:, k] for who, s in models.items()},
                 truth.codes_TC[:, k])
                for k in liveliest], threshold
    if benchmark.has_lips:
        true_aperture, width = truth.lips
        rows.append(("lip aperture", {who: s.lips[0] for who, s in models.items()}, true_aperture))
        threshold = benchmark.lip_recipe["tau"] * float(np.mean(width))
    else:
        rows.append(("face code 0", {who: s.face_NF[:, 0] for who, s in models.items()},
                     truth.face_NF[:, 0]))
    if truth.pose_NP.shape[1] > 1 and np.ptp(truth.pose_NP) > 0:
        axis = int(np.argmax(truth.pose_NP.std(0)))
        rows.append((f"head pose {axis} (z)",
                     {who: s.pose_NP[:, axis] for who, s in models.items()},
                     truth.pose_NP[:, axis]))
    return rows, threshold


def wav_bytes(wave_N: np.ndarray, rate: int) -> bytes:
    """16-bit mono WAV."""
    import soundfile
    file = io.BytesIO()
    soundfile.write(file, np.clip(wave_N, -1, 1), rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def video_and_poster(benchmark, signals, identity) -> tuple[bytes, bytes] | None:
    """(mp4 with sound, its middle frame as JPEG), or None where the decoder draws no faces."""
    frames = benchmark.pictures(signals.streams, identity)
    if frames is None:
        return None
    fps = benchmark.picture_fps
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "clip.mp4"
        sound = signals.waveform if signals.has_audio else np.zeros(0, np.float32)
        write_media.write_mp4(path, frames, fps,
                              fit_sound(sound, len(frames) / fps, benchmark.sample_rate),
                              benchmark.sample_rate, crf=26)
        poster = io.BytesIO()
        Image.fromarray(frames[len(frames) // 2]).save(poster, "JPEG", quality=85)
        return path.read_bytes(), poster.getvalue()


def fit_sound(wave_N: np.ndarray, seconds: float, rate: int) -> np.ndarray:
    """Pads with silence, or cuts, to the pictures' duration."""
    size = round(seconds * rate)
    return np.pad(wave_N[:size], (0, max(0, size - len(wave_N))))


def read_history(path, limit: int = 9) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{scalar: (steps, values)} of a metrics.jsonl; the most telling ones first, at most
    `limit`."""
    path = pathlib.Path(path)
    if not path.exists():
        return {}
    series: dict[str, tuple[list, list]] = {}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for number_, line in enumerate(lines, 1):
        # the job still writes, or was killed writing, the last one
        if not line.strip() or not line.endswith("\n"):
            continue
        try:
            record = json.loads(line)
            step = record["step"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError("unreadable metrics", where=f"{path}:{number_}",
                            expected="JSON with a step", found=line[:60],
                            hint="remove that line") from error
        kind = f"{record.get('kind', '')}/".lstrip("/")
        for key, value in ((kind + k, v) for k, v in record.items() if k not in ("step", "kind")):
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                series.setdefault(key, ([], []))
                series[key][0].append(step)
                series[key][1].append(float(value))

    def interest(key):
        words = ("loss", "f1_lips", "fd_e", "mel", "face", "head", "grad", "learning_rate", "lr",
                 "mfu", "second")
        return next((i for i, w in enumerate(words) if w in key.lower()), len(words)), key
    names = sorted((k for k, (s, _) in series.items() if len(s) > 1), key=interest)[:limit]
    return {k: (np.array(series[k][0]), np.array(series[k][1])) for k in names}


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _img(content: bytes, alt: str) -> str:
    return f"<img alt='{alt}' src='{_data('image/png', content)}'>"
