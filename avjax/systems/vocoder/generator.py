"""BigVGAN's parameters as they are trained: the norm and the direction of every convolution apart
(Salimans and Kingma 2016). `folded` makes of them what avjax.codecs.bigvgan runs.

Shapes: a convolution's direction is (taps, in, out) with a norm for each output; that of an
upsampling (in, out, taps) with a norm for each input, as published.
"""

import math

import jax
import jax.numpy as jnp

from avjax.codecs.bigvgan_network import BigVGANConfig
from avjax.codecs.published.bigvgan import polyphase
from avjax.signal import mel
from avjax.systems.vocoder.discriminators import fan_in, normed


def network(config) -> BigVGANConfig:
    """The network of config.system."""
    return BigVGANConfig(config.bands, config.channels, tuple(config.rates), tuple(config.kernels),
                         tuple(config.block_kernels), tuple(tuple(d) for d in config.dilations),
                         config.log_scale, config.tanh)


def mel_recipe(config) -> dict:
    """The mel that the network reads; not scaled."""
    return mel.unscaled(mel.RECIPE) | {
        "sample_rate": config.sample_rate, "n_fft": config.n_fft,
        "hop": math.prod(config.rates), "bands": config.bands, "fmax": float(config.fmax)}


def init(net: BigVGANConfig, key) -> dict:
    """Fresh parameters. The published code means to draw some of them otherwise, but draws the
    weight that weight norm computes, so that these are what it begins with."""
    keys = iter(jax.random.split(key, 1000))

    def convolution(taps, inputs, outputs, bias=True):
        direction = fan_in(next(keys), (taps, inputs, outputs))
        return layer(direction, (0, 1), taps * inputs, outputs if bias else 0)

    def layer(direction, axes, inputs, biases):
        scale = jnp.sqrt(jnp.sum(direction**2, axes))
        bias = {"bias": fan_in(next(keys), (inputs, biases))[0]} if biases else {}
        return {"direction": direction, "scale": scale} | bias

    def upsampling(inputs, outputs, taps):
        direction = fan_in(next(keys), (outputs * taps, inputs)).reshape(outputs, taps, inputs)
        return layer(direction.transpose(2, 0, 1), (1, 2), outputs * taps, outputs)

    def activation(channels):
        start = jnp.zeros if net.log_scale else jnp.ones
        return {"alpha": start(channels), "beta": start(channels)}

    params = {"conv_pre": convolution(7, net.bands, net.channels)}
    for i, kernel in enumerate(net.kernels):
        channels = net.channels >> i + 1
        params[f"ups_{i}"] = upsampling(2 * channels, channels, kernel)
        for j, (size, dilations) in enumerate(zip(net.block_kernels, net.dilations, strict=True)):
            block = {f"{convs}_{n}": convolution(size, channels, channels)
                     for n in range(len(dilations)) for convs in ("convs1", "convs2")}
            params[f"resblocks_{i * len(net.block_kernels) + j}"] = block | {
                f"activations_{n}": activation(channels) for n in range(2 * len(dilations))}
    return params | {"activation_post": activation(channels),
                     "conv_post": convolution(7, channels, 1, bias=net.tanh)}


def normalised(params: dict) -> dict:
    """Parameters that read mel as if it were scaled as the other systems scale it, and whose sound
    begins at a tenth: where a short training should not have to find that out."""
    first, last = dict(params["conv_pre"]), dict(params["conv_post"])
    first["scale"] = first["scale"] / mel.RECIPE["std"]
    kernel = normed(first["scale"], first["direction"])
    first["bias"] = first["bias"] - mel.RECIPE["mean"] * kernel.sum((0, 1))
    last = {name: x if name == "direction" else 0.1 * x for name, x in last.items()}
    return params | {"conv_pre": first, "conv_post": last}


def folded(net: BigVGANConfig, params: dict) -> dict:
    """The parameters of avjax.codecs.bigvgan_network.generator. Pure."""
    def fold(layer, path):
        if "direction" not in layer:
            return {name: fold(inner, name) if isinstance(inner, dict) else inner
                    for name, inner in layer.items()}
        bias = {"bias": layer["bias"]} if "bias" in layer else {}
        if not path.startswith("ups_"):
            return {"kernel": normed(layer["scale"], layer["direction"])} | bias
        norm = jnp.sqrt(jnp.sum(layer["direction"]**2, axis=(1, 2)))
        weight = layer["direction"] * (layer["scale"] / norm)[:, None, None]
        return {"kernel": polyphase(weight, net.rates[int(path.removeprefix("ups_"))])} | bias

    return fold(params, "")
