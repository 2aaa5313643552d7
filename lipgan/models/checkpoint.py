"""Weights in files: user checkpoints (X.weights.h5, with X.json beside it) and legacy Keras 2 files (.h5).

Arrays are read into networks that are built here; nothing in a file is ever run.
"""

import collections
import contextlib
import json
import pathlib
import platform
import sys
import tempfile

import h5py
import keras
import numpy as np

import generator as paper
from audio_hparams import hparams
from discriminator import build_discriminator
from generator import FUSION, IMG_SIZES, scaled
from lipgan.models.hdf5_claims import check_arrays, check_attributes, readable
from lipgan.models.metadata import EARLIER_KIND, ENDING, KINDS, description, json_path, warn_of_differences
from lipgan.models.warp import RENDERER, build_warp_generator
from lipgan.utils.cli import UserError
from lipgan.utils.files import atomic_write

ATTRIBUTES = ("layer_names", "weight_names", "dtype")  # of HDF5 files, read here and by Keras
MIN_WEIGHTS = 1_000_000  # of any network of width 1; the count grows with the square of the width


def _build(kind, img_size, width, lower_half_nchw=False):
    if kind == "discriminator":
        return build_discriminator(img_size, width)
    return build_generator(kind, img_size, width, lower_half_nchw=lower_half_nchw)


def build_generator(kind, img_size=96, width=1.0, synchronized=False, lower_half_nchw=False) -> keras.Model:
    """Build an untrained generator of any of KINDS. The arguments are those of `generator.build_generator`.

    The warp generator has no batch norm to synchronise and no lower_half_nchw form.
    """
    if kind == "warp":
        return build_warp_generator(img_size, width)
    return paper.build_generator(kind, img_size, width, synchronized, lower_half_nchw)


# Saving


def save_generator(path, model: keras.Model, info: dict, half: bool = False) -> None:
    """Write a user checkpoint: weights to `path` (X.weights.h5), and their description to X.json.

    model: from `build_generator`. info: `width`, the defaults of inference (detector, pads, sync_offset_ms), step, and
    any other JSON values; model, img_size, hparams and versions are added if missing.
    half: store kernels as float16, in half the space; they load as float32.
    """
    path = pathlib.Path(path)
    if not path.name.endswith(ENDING):
        raise UserError(f"{path}: a weight file's name must end in {ENDING}")
    if not _has_width(model, info["width"]):
        raise ValueError(f"info has width {info['width']}, the model another one")
    backend = keras.backend.backend()
    details = {
        "model": model.name.removesuffix("_generator"),
        "img_size": model.input_shape[0][1],
        "hparams": hparams.as_dict(),
        "versions": {
            "python": platform.python_version(),
            "keras": keras.__version__,
            backend: sys.modules[backend].__version__,
        },
        **info,
        "precision": "float16" if half else "float32",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp_", dir=path.parent) as folder:
        whole = pathlib.Path(folder) / f"whole{ENDING}"
        model.save_weights(whole)
        with atomic_write(json_path(path)) as text, atomic_write(path) as weights:
            text.write_text(json.dumps(details, indent=1) + "\n", encoding="utf-8")
            _pack(whole, weights, half)


save_discriminator = save_generator  # its JSON says "discriminator"


def _pack(source, target, half):
    """Copy the weights without the optimizer's state; with `half`, kernels as compressed float16."""

    def copy(name, item):
        if name.split("/")[0] == "optimizer":
            return
        if isinstance(item, h5py.Group):
            new = packed.require_group(name)
        elif half and item.ndim >= 3 and np.abs(item[...]).max() < np.finfo("float16").max:
            new = packed.create_dataset(name, data=item[...].astype("float16"), compression="gzip", shuffle=True)
        else:  # biases and batch norm are small, and a variance may not fit into float16
            new = packed.create_dataset(name, data=item[...])
        new.attrs.update(item.attrs)

    with h5py.File(source) as whole, h5py.File(target, "w") as packed:
        packed.attrs.update(whole.attrs)
        whole.visititems(copy)


# Loading


def load_generator(
    path,
    kind: str | None = None,
    img_size: int | None = None,
    width: float | None = None,
    lower_half_nchw: bool = False,
):
    """Load a generator from a user checkpoint or a legacy .h5 file: (keras.Model, info).

    Arguments left at None are taken from the file (its JSON, or the shapes of its arrays); others must agree with it.
    lower_half_nchw: as in `generator.build_generator`, for the kinds that have it.
    info: the content of the JSON file; without one, model, img_size, width, and sync_offset_ms 0. In both cases also
    `format` ("checkpoint" or "legacy") and `differences`, the hparams that differ from ours, which a warning lists.
    Raises UserError for a file of no network, or of another one than requested.
    """
    return _load(pathlib.Path(path), KINDS, {"model": kind, "img_size": img_size, "width": width}, lower_half_nchw)


def load_discriminator(path, img_size: int | None = None, width: float | None = None):
    """Load a discriminator as `load_generator` loads a generator: (keras.Model, info)."""
    return _load(pathlib.Path(path), ("discriminator",), {"model": None, "img_size": img_size, "width": width})


def _load(path, kinds, requested, lower_half_nchw=False):
    with _opened(path) as file:
        with readable(path):
            legacy = _legacy_group(file) is not None
        if not legacy and not path.name.endswith(ENDING):
            raise UserError(
                f"{path} holds no Keras 2 weights; if they are of Keras 3, rename it to {path.stem}{ENDING}"
            )
        details = None if legacy else description(path)
        stored = _arrays(file)
        if details:
            spec = (details["model"], details["img_size"], details["width"])
            _check_requested(path, spec, kinds, requested)
            if sum(dataset.size for dataset in stored) < MIN_WEIGHTS * (spec[2] > 1) * spec[2] ** 2:
                raise UserError(f"{path} has far fewer weights than {_named(*spec)}, as {json_path(path).name} says")
            model = _build(*spec, lower_half_nchw)
            if _shapes(model) != _counted(stored):
                if spec[0] == "warp" and _recognised(stored) == (None, None):
                    raise UserError(EARLIER_KIND.format(path=path, kind="warp"))
                raise UserError(
                    f"{path} {_fits(_recognised(stored)[0])}, not {_named(*spec)} as {json_path(path).name} beside it "
                    "says; give the two files that were saved together"
                )
        else:
            spec, model = _recognised(stored, lower_half_nchw)
            _check_requested(path, spec, kinds, requested)
        if legacy:
            _assign(path, model, stored)
    if not legacy:
        with readable(path):
            model.load_weights(path)

    info = {"sync_offset_ms": 0, **(details or {}), **dict(zip(requested, spec, strict=True))}
    info["format"] = "legacy" if legacy else "checkpoint"
    info["differences"] = hparams.differences(info.get("hparams", {}))
    if info["differences"]:
        warn_of_differences(path, info["differences"])
    return model, info


@contextlib.contextmanager
def _opened(path):
    if not path.exists():
        raise UserError(f"{path}: no such file; give the path of a {ENDING} or a legacy .h5 file")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a {ENDING} or a legacy .h5 file")
    if not h5py.is_hdf5(path):
        raise UserError(f"{path} is no HDF5 file ({path.stat().st_size:,} bytes); give a {ENDING} or a legacy .h5 file")
    with readable(path):
        check_attributes(path, ATTRIBUTES)
        file = h5py.File(path, "r")
    with file:
        yield file


def _legacy_group(file):
    """Return the group of a Keras 2 file that lists its layers (one level deeper in a full model), or None."""
    for group in (file, file.get("model_weights")):
        if isinstance(group, h5py.Group) and "layer_names" in group.attrs:
            return group
    return None


def _arrays(file):
    """Return the HDF5 datasets of all weights: of Keras 2 files in layer order, of Keras 3 files in any order."""
    datasets = []
    with readable(file.filename):
        legacy = _legacy_group(file)
        if legacy is not None:
            for layer in (legacy[name] for name in legacy.attrs["layer_names"]):
                datasets += [layer[name] for name in layer.attrs["weight_names"]]
        elif "layers" in file:
            file["layers"].visititems(lambda _, item: datasets.append(item) if isinstance(item, h5py.Dataset) else None)
        if any(d.file != file or d.external or d.is_virtual or d.shape is None for d in datasets):
            raise ValueError("it links to arrays in other files")
        check_arrays(pathlib.Path(file.filename), datasets)
    return datasets


def _assign(path, model, stored):
    """Assign the arrays of a Keras 2 file, which are in layer order, to the model."""
    variables = [v for layer in model.layers for v in layer.trainable_weights + layer.non_trainable_weights]
    with readable(path):
        for variable, dataset in zip(variables, stored, strict=True):
            if tuple(variable.shape) != (dataset.shape or (1,)):
                raise ValueError(f"{dataset.name} has shape {dataset.shape} where {variable.path} has {variable.shape}")
            variable.assign(np.asarray(dataset, "float32").reshape(variable.shape))


# Recognising the network of a file


def _has_width(model, width):
    """Return whether a network has the filter counts of this width."""
    if model.name == "warp_generator":
        return model.get_layer(RENDERER).get_layer("cells").filters == scaled(64, width)
    if model.name == "discriminator":
        return model.get_layer("face_to_vector").filters == scaled(512, width)
    return model.get_layer(FUSION).input[1].shape[-1] == scaled(512, width)


def _shapes(model):
    return collections.Counter(tuple(w.shape) for w in model.weights)


def _counted(stored):
    return collections.Counter(dataset.shape or (1,) for dataset in stored)  # a scalar gain may have no axis


def _recognised(stored, lower_half_nchw=False):
    """Recognise a network by the shapes of its arrays: ((kind, img_size, width), model), or (None, None)."""
    kernels = [d.shape for d in stored if d.ndim == 4]
    # Only the first layer of the face encoder has this kernel size and number of input channels.
    first = {(7, 6): "residual", (11, 6): "basic", (7, 3): "discriminator", (4, 8): "warp"}
    kind, cells = next(((first[s[0], s[2]], s[3]) for s in kernels if (s[0], s[2]) in first), (None, 0))
    filters = {d.shape[0] for d in stored if d.ndim == 1 and d.shape[0] > 3}  # neither gains nor the output layer
    if kind == "warp":  # whose arrays are the same for every img_size
        spec = (kind, IMG_SIZES[0], cells / 64)
    else:
        width = _width(filters, (32, 64, 128, 256, 512) if kind == "discriminator" else (16, 32, 64, 128, 256, 512))
        if not kind or not width:
            return None, None
        # Of the widest layers, those that span the smallest map have the largest kernels.
        spec = (kind, 32 * max(s[0] for s in kernels if s[2] >= max(filters)), width)
    model = _build(*spec, lower_half_nchw) if spec[1] in IMG_SIZES else None
    return (spec, model) if model and _shapes(model) == _counted(stored) else (None, None)


def _width(filters, designed):
    """Return the simplest width that scales the designed filter counts to these, or None."""
    most, largest = max(filters, default=0), max(designed)
    for denominator in range(1, 257):
        numerators = range(max(1, (most - 4) * denominator // largest), (most + 4) * denominator // largest + 1)
        for width in (n / denominator for n in numerators):
            if {scaled(d, width) for d in designed} == filters and width <= 4:
                return width
    return None


def _named(kind, img_size, width):
    kind = "the discriminator" if kind == "discriminator" else f"--model {kind}"
    return f"{kind}, img_size {img_size}, width {width:g}"


def _fits(spec):
    return f"fits {_named(*spec)}" if spec else f"fits none of the networks here ({', '.join(KINDS)}, discriminator)"


def _check_requested(path, spec, kinds, requested):
    """Raise UserError unless a file's (kind, img_size, width) is of these kinds and as requested."""
    if spec is None:
        raise UserError(f"{path} {_fits(spec)}; give another file")
    if spec[0] not in kinds:
        raise UserError(
            f"{path} {_fits(spec)}, not {'a generator' if kinds == KINDS else 'the discriminator'}; give another file"
        )
    agree = (
        requested["model"] or spec[0],
        requested["img_size"] or spec[1],
        scaled(512, requested["width"] or spec[2]),
    )
    if agree != (*spec[:2], scaled(512, spec[2])):
        given = " ".join(f"--{name} {value}" for name, value in requested.items() if value is not None)
        raise UserError(f"{path} {_fits(spec)}, not {given}; change that, or give another file")
