"""Published text-to-tokens weights <-> our parameters: one name table, both directions.

AV-Flow's release keeps a bare state dict (text_to_tokens.pth), Matcha-TTS a Lightning checkpoint
whose `state_dict` has the same names; the tokens' statistics are entries of both. Published
layouts: a Linear's weight is (out, in), a Conv1d's (out, in, kernel), a ConvTranspose1d's (in, out,
kernel).
"""

import numpy as np

from avjax.errors import UserError
from avjax.weights.layouts import as_is, transposed
from avjax.weights.names import PREFIXED, gather, scatter
from avjax.weights.published import Published

STATISTICS = ("mean", "std")
MATCHA = "mel_"  # what Matcha-TTS puts before their names

conv = (lambda w: w.transpose(2, 1, 0),) * 2  # (out, in, k) <-> (k, in, out)
widen = (lambda w: w.transpose(2, 0, 1), lambda k: k.transpose(1, 2, 0))  # (in, out, k)
point = (lambda w: w[:, :, 0].T, lambda k: k.T[:, :, None])  # (out, in, 1) <-> (in, out)


def by_head(heads: int, points: bool) -> tuple:
    """(H K, D) or, of a convolution, (H K, D, 1) <-> (D, H, K); a bias (H K,) <-> (H, K)."""
    def to_ours(w):
        w = w[..., 0] if w.ndim == 3 else w
        return w.T.reshape(*w.shape[1:], heads, -1)

    def to_theirs(k):
        w = k.reshape(*k.shape[:-2], -1).T
        return w[..., None] if points and w.ndim == 2 else w

    return to_ours, to_theirs


def names(config) -> list[tuple]:
    """Rows (published names, our path, layout, layer) as avjax.weights.names wants them."""
    rows = [(("encoder.emb.weight",), "encoder/embedding", as_is, None)]

    def layer(theirs, ours, kernel=conv, bias=as_is):
        rows.append(((f"{theirs}.weight",), f"{ours}/kernel", kernel, None))
        rows.append(((f"{theirs}.bias",), f"{ours}/bias", bias, None))

    def norm(theirs, ours, words=("weight", "bias")):
        for word, name in zip(words, ("scale", "bias"), strict=True):
            rows.append(((f"{theirs}.{word}",), f"{ours}/{name}", as_is, None))

    _encoder(config, layer, lambda theirs, ours: norm(theirs, ours, ("gamma", "beta")))
    _unet(config.unet, rows, layer, norm)
    return rows


def _encoder(config, layer, norm) -> None:
    c, ours = config.encoder, "encoder"
    for i in range(c.convolutions):
        layer(f"encoder.prenet.conv_layers.{i}", f"{ours}/prenet/convs_{i}")
        norm(f"encoder.prenet.norm_layers.{i}", f"{ours}/prenet/norms_{i}")
    if c.convolutions:
        layer("encoder.prenet.proj", f"{ours}/prenet/project", point)
    heads = by_head(c.heads, points=True)
    for i in range(c.layers):
        a, b = "encoder.encoder", f"{ours}/layers_{i}"
        for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
            layer(f"{a}.attn_layers.{i}.conv_{letter}", f"{b}/{name}", heads, heads)
        layer(f"{a}.attn_layers.{i}.conv_o", f"{b}/project", point)
        layer(f"{a}.ffn_layers.{i}.conv_1", f"{b}/conv_in")
        layer(f"{a}.ffn_layers.{i}.conv_2", f"{b}/conv_out")
        norm(f"{a}.norm_layers_1.{i}", f"{b}/attention_norm")
        norm(f"{a}.norm_layers_2.{i}", f"{b}/conv_norm")
    layer("encoder.proj_m", f"{ours}/mean", point)
    for i in range(2):
        layer(f"encoder.proj_w.conv_{i + 1}", f"{ours}/durations/convs_{i}")
        norm(f"encoder.proj_w.norm_{i + 1}", f"{ours}/durations/norms_{i}")
    layer("encoder.proj_w.proj", f"{ours}/durations/project", point)


def _unet(c, rows, layer, norm) -> None:
    heads = by_head(c.heads, points=False)

    def block(theirs, ours):
        layer(f"{theirs}.block.0", f"{ours}/conv")
        norm(f"{theirs}.block.1", f"{ours}/norm")

    def level(theirs, ours):
        for name in ("block1", "block2"):
            block(f"{theirs}.0.{name}", f"{ours}/resnet/{name}")
        layer(f"{theirs}.0.mlp.1", f"{ours}/resnet/time", transposed)
        layer(f"{theirs}.0.res_conv", f"{ours}/resnet/skip", point)
        for i in range(c.blocks):
            a, b = f"{theirs}.1.{i}", f"{ours}/blocks_{i}"
            rows.append((tuple(f"{a}.attn1.to_{letter}.weight" for letter in "qkv"),
                         f"{b}/qkv/kernel", heads, None))
            layer(f"{a}.attn1.to_out.0", f"{b}/project", transposed)
            norm(f"{a}.norm1", f"{b}/attention_norm")
            norm(f"{a}.norm3", f"{b}/mlp_norm")
            layer(f"{a}.ff.net.0.proj", f"{b}/mlp_in/project", transposed)
            for name in ("alpha", "beta"):
                rows.append(((f"{a}.ff.net.0.{name}",), f"{b}/mlp_in/{name}", as_is, None))
            layer(f"{a}.ff.net.2", f"{b}/mlp_out", transposed)

    root, ours, last = "decoder.estimator", "decoder", len(c.channels) - 1
    layer(f"{root}.time_mlp.linear_1", f"{ours}/time_in", transposed)
    layer(f"{root}.time_mlp.linear_2", f"{ours}/time_out", transposed)
    for i in range(len(c.channels)):
        inner = "" if i == last else ".conv"
        level(f"{root}.down_blocks.{i}", f"{ours}/down_{i}")
        layer(f"{root}.down_blocks.{i}.2{inner}", f"{ours}/down_{i}/conv")
        level(f"{root}.up_blocks.{i}", f"{ours}/up_{i}")
        layer(f"{root}.up_blocks.{i}.2{inner}",
              f"{ours}/up_{i}/conv" + ("" if i == last else "/conv"),
              conv if i == last else widen)
    for i in range(c.middle):
        level(f"{root}.mid_blocks.{i}", f"{ours}/middle_{i}")
    block(f"{root}.final_block", f"{ours}/final")
    layer(f"{root}.final_proj", f"{ours}/outputs", point)


def import_text(state: dict[str, np.ndarray], config) -> dict:
    """Published names -> our parameters. UserError: an entry missing, left over or of other heads,
    a config of the paper's network."""
    if config.decoder != "unet":
        raise UserError("published names exist for the release's network only",
                        where="config.system.decoder", expected="unet", found=config.decoder)
    left_out = {prefix + name for name in STATISTICS for prefix in ("", MATCHA)}
    return gather({name: value for name, value in state.items() if name not in left_out},
                  names(config))


def export_text(params, config) -> dict[str, np.ndarray]:
    """Our parameters -> the release's names, statistics included; the inverse of `import_text`, bit
    for bit."""
    if config.decoder != "unet":
        raise UserError("published names exist for the release's network only",
                        where="config.system.decoder", expected="unet", found=config.decoder,
                        hint="use its Orbax checkpoint as it is")
    statistics = {name: np.asarray(config[name], np.float32) for name in STATISTICS}
    return statistics | scatter(params, names(config))


def sizes(state: dict[str, np.ndarray], config) -> dict:
    """Fields of the config that the arrays show, statistics included; numbers of heads are as
    published. UserError: another network's weights, or no statistics."""
    def count(pattern_before, pattern_after):
        return sum(name.startswith(pattern_before) and name.endswith(pattern_after)
                   for name in state)

    unet = "decoder.estimator"
    try:
        width = state["encoder.emb.weight"].shape
        convolutions = count("encoder.prenet.conv_layers.", ".weight")
        feed = state["encoder.encoder.ffn_layers.0.conv_1.weight"].shape
        levels = count(f"{unet}.down_blocks.", ".0.res_conv.weight")
        encoder = dict(width=width[1], convolutions=convolutions, d_ff=feed[0], kernel=feed[2],
                       layers=count("encoder.encoder.attn_layers.", ".conv_q.weight"),
                       duration_width=state["encoder.proj_w.conv_1.weight"].shape[0])
        if convolutions:
            encoder["convolution_kernel"] = state["encoder.prenet.conv_layers.0.weight"].shape[2]
        inner = state[f"{unet}.down_blocks.0.1.0.attn1.to_q.weight"].shape[0]
        channels = tuple(state[f"{unet}.down_blocks.{i}.0.res_conv.weight"].shape[0]
                         for i in range(levels))
        shown = dict(symbols=width[0], token_dim=state["encoder.proj_m.weight"].shape[0],
                     encoder=encoder,
                     unet=dict(channels=channels, head_width=inner // config.unet.heads,
                               blocks=count(f"{unet}.down_blocks.0.1.", ".attn1.to_q.weight"),
                               middle=count(f"{unet}.mid_blocks.", ".0.res_conv.weight")))
    except KeyError as error:
        raise UserError("not a text-to-tokens state dict", expected=f"an entry {error.args[0]}",
                        found=", ".join(sorted(state)[:3]), hint=PREFIXED) from error
    for name in STATISTICS:
        value = state.get(name, state.get(MATCHA + name))
        if value is None:
            raise UserError("the tokens' statistics are missing", where=name,
                            expected=f"an entry {name} or {MATCHA}{name}", found="neither",
                            hint="pass --config with config.system.mean and std")
        # as it was written: the shortest decimal that is this float32
        shown[name] = float(str(np.float32(np.asarray(value).reshape(()))))
    return shown


PUBLISHED = Published("avflow_text", import_text, export_text, sizes)
