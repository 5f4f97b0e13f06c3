"""Torch zips and pickles of any content, made by hand: `Global` and `Call` pickle as foreign
globals and calls."""

import io
import pickle
import zipfile


def zip_pickle(path, pickled: bytes, storages: dict[str, bytes] | None = None, **more: bytes):
    """A torch zip around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
        for name, data in more.items():
            archive.writestr(f"archive/{name}", data)
    return path


class Global:
    """Pickles as the global `module.name`, whether or not it can be imported here."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Pickles as a call of `function`, and then state given to what it returns."""

    def __init__(self, function, *args, state=None):
        self.parts = (function, args) + ((state,) if state is not None else ())

    def save(self, pickler):
        pickler.save(self.parts[0])
        pickler.save(tuple(self.parts[1]))
        pickler.write(pickle.REDUCE)
        if len(self.parts) == 3:
            pickler.save(self.parts[2])
            pickler.write(pickle.BUILD)


class Pickler(pickle._Pickler):  # the Python one, for it can be taught foreign globals
    dispatch = dict(pickle._Pickler.dispatch)

    def save_foreign(self, value):
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())

    dispatch[Global] = save_foreign
    dispatch[Call] = lambda pickler, value: value.save(pickler)

    def persistent_id(self, value):
        return value[1:] if isinstance(value,
                                       tuple) and value and value[0] == "persistent" else None


def dumps(value) -> bytes:
    out = io.BytesIO()
    Pickler(out, protocol=2).dump(value)
    return out.getvalue()


def tensor(shape, strides, *, offset=0, storage="FloatStorage", count=24, key="0"):
    """A tensor as torch pickles it, on the storage `key`."""
    return Call(Global("torch._utils", "_rebuild_tensor_v2"),
                ("persistent", "storage", Global("torch", storage), key, "cpu", count),
                offset, shape, strides, False, Call(Global("collections", "OrderedDict")))
