"""Portrait's published state dicts <-> our parameters."""

from avjax.errors import UserError
from avjax.weights.layouts import as_is, transposed
from avjax.weights.names import gather, scatter
from avjax.weights.published import Published


def rows(config):
    """(published names, our path, layout, layer), as avjax.weights.names wants them."""
    layers = ["time", "inputs", "outputs"]
    layers += [f"{kind}_{i}" for i in range(config.num_layers) for kind in ("wide", "narrow")]
    found = []
    for layer in layers:
        theirs = f"net.{layer.replace('_', '.')}"  # e.g. net.wide.0
        found += [((f"{theirs}.weight",), f"{layer}/kernel", transposed, None),
                  ((f"{theirs}.bias",), f"{layer}/bias", as_is, None)]
    return found


def sizes(state, config):
    """The config's fields that the shapes show."""
    if "net.inputs.weight" not in state:
        raise UserError("not a Portrait state dict", expected="an entry net.inputs.weight",
                        found=", ".join(list(state)[:3]))
    d_model, past = state["net.inputs.weight"].shape[0], state["net.wide.0.weight"].shape[1]
    return {"d_model": d_model, "past": past // d_model - 1,
            "num_layers": sum(name.startswith("net.wide.") for name in state) // 2}


PUBLISHED = Published(
    "portrait", sizes=sizes,
    read=lambda state, config: gather(state, rows(config)),
    write=lambda params, config: scatter(params, rows(config)))
