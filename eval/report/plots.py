"""Pictures of streams, as arrays for TensorBoard and as PNG bytes for the report."""

import io
import itertools

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from avjax.signal import mel  # noqa: E402

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


def png(figure) -> bytes:
    """PNG bytes; closes the figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    plt.close(figure)
    return file.getvalue()


def image(figure) -> np.ndarray:
    """(H, W, 3) uint8; closes the figure."""
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return pixels
