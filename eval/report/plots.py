"""Pictures of streams, as arrays for TensorBoard and as PNG bytes for the report."""

import io
import itertools

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from avjax.signal import mel  # noqa: E402
from avjax.signal.runs import intervals  # noqa: E402

INK, TRUE = "#222222", "#1d4ed8"
GENERATED = ("#c2410c", "#0f766e", "#a21caf", "#a16207")  # one a model variant


def _figure(rows: int, height: float, width: float = 7.2):
    figure, axes = plt.subplots(rows, 1, figsize=(width, height), sharex=True, squeeze=False,
                                layout="constrained")
    for axis in axes[:, 0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8, colors=INK)
    return figure, axes[:, 0]


def token_pair(generated_TC: np.ndarray, truth_TC: np.ndarray):
    """Tokens that a text became, truth below."""
    return spectrogram_pair(generated_TC, truth_TC, mel.FRAME_RATE, "token")


def spectrogram_pair(generated_TM: np.ndarray, truth_TM: np.ndarray, rate: float,
                     what: str = "mel band"):
    """Two log-mel spectrograms of `rate` frames a second on one colour scale, truth below."""
    figure, axes = _figure(2, 3.4)
    low, high = np.percentile(truth_TM, [1, 99.5])
    for axis, mel_TM, title in ((axes[0], generated_TM, "generated"),
                                (axes[1], truth_TM, "ground truth")):
        axis.imshow(mel_TM.T, origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=high,
                    extent=(0, len(mel_TM) / rate, 0, mel_TM.shape[1]), interpolation="nearest")
        axis.set_title(title, loc="left", fontsize=9, color=INK)
        axis.set_ylabel(what, fontsize=8)
    axes[-1].set_xlabel("seconds", fontsize=8)
    return figure


def curves(rows: list[tuple[str, dict[str, np.ndarray], np.ndarray]], fps: float,
           threshold: float | None = None):
    """(name, {who: generated curve}, true curve) over time; `threshold` marks where the first one
    counts as closed."""
    figure, axes = _figure(len(rows), 1.2 + 1.1 * len(rows))
    for axis, (name, generated, truth) in zip(axes, rows, strict=True):
        axis.plot(np.arange(len(truth)) / fps, truth, color=TRUE, lw=1.6, label="ground truth",
                  alpha=0.85)
        for (who, curve), color in zip(generated.items(), itertools.cycle(GENERATED)):
            axis.plot(np.arange(len(curve)) / fps, curve, color=color, lw=1.1, label=who)
        axis.set_ylabel(name, fontsize=8)
        axis.margins(x=0)
    if threshold is not None:
        axes[0].axhline(threshold, color=INK, lw=0.6, ls=":")
    axes[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncol=4, fontsize=8, frameon=False)
    axes[-1].set_xlabel("seconds", fontsize=8)
    return figure


def curve_pairs(benchmark, models: dict, truth):
    """What to draw of `models` {who: Signals} beside the truth, at `benchmark.motion_fps`.

    Returns:
      ([(name, {who: generated curve}, true curve)], threshold of lip closure or None): the rows of
      `curves`, none where nothing can be drawn.
    """
    rows, threshold = [], None
    if benchmark.has_codes and not benchmark.decoder.has_face:
        liveliest = np.argsort(-truth.codes_TC.std(0), kind="stable")[:2]
        return [(f"motion code {k}", {who: s.codes_TC[:, k] for who, s in models.items()},
                 truth.codes_TC[:, k])
                for k in liveliest], threshold
    # of pictures in which a face is seen
    speaks = {who: s for who, s in models.items() if not benchmark.reader or s.expressions}
    if benchmark.has_lips and speaks and (not benchmark.reader or truth.expressions):
        true_aperture, width = truth.lips
        rows.append(("lip aperture", {who: s.lips[0] for who, s in speaks.items()}, true_aperture))
        threshold = benchmark.lip_recipe["tau"] * float(np.mean(width))
    elif benchmark.has_codes:
        rows.append(("face code 0", {who: s.face_NF[:, 0] for who, s in models.items()},
                     truth.face_NF[:, 0]))
    if benchmark.has_codes and truth.pose_NP.shape[1] > 1 and np.ptp(truth.pose_NP) > 0:
        axis = int(np.argmax(truth.pose_NP.std(0)))
        rows.append((f"head pose {axis} (z)",
                     {who: s.pose_NP[:, axis] for who, s in models.items()},
                     truth.pose_NP[:, axis]))
    return rows, threshold


def training_curves(history: dict[str, tuple[np.ndarray, np.ndarray]], columns: int = 3):
    """Small multiples, one a scalar: {name: (steps, values)}."""
    rows = -(-len(history) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.4 * columns, 2.1 * rows), squeeze=False,
                                layout="constrained")
    for axis in axes.flat[len(history):]:
        axis.set_visible(False)
    for axis, (name, (steps, values)) in zip(axes.flat, history.items(), strict=False):
        axis.plot(steps, values, color=TRUE, lw=1.1, marker="o" if len(steps) < 12 else None, ms=3)
        axis.set_title(name, loc="left", fontsize=9, color=INK)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=7, colors=INK)
        positive = values[np.isfinite(values) & (values > 0)]
        if len(positive) == len(values) and len(
            values) > 5 and positive.max() > 20 * positive.min():
            axis.set_yscale("log")
    return figure


def scores(series: dict[str, dict[str, np.ndarray]], columns: int = 3):
    """Small multiples, one a metric: {metric: {variant: (4, N): step, value, low, high}}."""
    rows = -(-len(series) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.4 * columns, 2.1 * rows + 0.3),
                                squeeze=False, layout="constrained")
    names = list(dict.fromkeys(v for of in series.values() for v in of))
    colors = dict(zip((n for n in names if n != "truth"), itertools.cycle(GENERATED)))
    for axis in axes.flat[len(series):]:
        axis.set_visible(False)
    for axis, (metric, variants) in zip(axes.flat, series.items(), strict=False):
        for name, (steps, values, low, high) in variants.items():
            color = colors.get(name, TRUE)
            axis.plot(steps, values, color=color, lw=1.2, marker="o", ms=3, label=name)
            axis.fill_between(steps, low, high, color=color, alpha=0.15, lw=0)
        axis.set_title(metric, loc="left", fontsize=9, color=INK)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=7, colors=INK)
    legend(figure, axes)
    return figure


def histograms(panels: dict[str, dict[str, np.ndarray]], bins: int = 24):
    """Densities beside each other, one a panel: {title: {who: values}}, the truth's filled."""
    figure, axes = plt.subplots(1, len(panels), figsize=(3.1 * len(panels), 2.5), squeeze=False,
                                layout="constrained")
    for axis, (title, values) in zip(axes[0], panels.items(), strict=True):
        pooled = np.concatenate(list(values.values()))
        edges = np.histogram_bin_edges(np.clip(pooled, *np.percentile(pooled, [1, 99])), bins)
        colors = itertools.cycle(GENERATED)
        for who, x in values.items():
            x = np.clip(x, edges[0], edges[-1])  # what lies outside is in the last bins
            if who == "truth":
                axis.hist(x, edges, density=True, color=TRUE, alpha=0.3, label=who)
            else:
                axis.hist(x, edges, density=True, histtype="step", lw=1.4, color=next(colors),
                          label=who)
        axis.set_title(title, loc="left", fontsize=9, color=INK)
        axis.set_xlabel("seconds", fontsize=8)
        axis.set_yticks([])
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(labelsize=7, colors=INK)
    legend(figure, axes)
    return figure


def energies(rows, fps: float, truth: str):
    """Expression energy over time, one row an eval.report.energy.Curves; `truth` is what the
    truth's curve is called. Shaded where the row's speaker speaks."""
    figure, axes = _figure(len(rows), 1.1 + 1.2 * len(rows))
    for axis, row in zip(axes, rows, strict=True):
        colors = itertools.cycle(GENERATED)
        for who, x in row.energies.items():
            color = TRUE if who == truth else next(colors)
            axis.plot(np.arange(len(x)) / fps, x, color=color, lw=1.2, label=who)
        if row.speaking is not None:
            for begin, end in intervals(row.speaking):
                axis.axvspan(begin / fps, end / fps, color=INK, alpha=0.08, lw=0)
        axis.set_ylabel(row.title, fontsize=8)
        axis.set_ylim(bottom=0)
        axis.margins(x=0)
    axes[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncol=4, fontsize=8, frameon=False)
    axes[-1].set_xlabel("seconds", fontsize=8)
    return figure


def legend(figure, axes) -> None:
    """One for all axes, below them."""
    handles = {label: handle for axis in axes.flat for handle, label in
               zip(*axis.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(handles.values(), handles, loc="outside lower center", ncol=6, fontsize=8,
                      frameon=False)


def png(figure) -> bytes:
    """PNG bytes of at most 256 colours, which take a third of the space; closes the figure."""
    file = io.BytesIO()
    picture = Image.fromarray(image(figure, dpi=110))
    picture.quantize(256, Image.Quantize.FASTOCTREE).save(file, "PNG", optimize=True)
    return file.getvalue()


def image(figure, dpi: int = 100) -> np.ndarray:
    """(H, W, 3) uint8; closes the figure."""
    figure.set_dpi(dpi)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return pixels
