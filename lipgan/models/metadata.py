"""Read the JSON file beside a checkpoint: model kind, img_size, width, hparams. Needs no Keras."""

import json
import pathlib

from lipgan.utils.cli import UserError, warn

ENDING = ".weights.h5"
KINDS = ("residual", "basic", "warp")  # generators
MAX_OFFSET_MS = 5_000
EARLIER_KIND = (
    "{path} is a {kind} generator of an earlier version, with other inputs; "
    "use weights/warp.weights.h5, or train again with --model warp"
)


def json_path(path) -> pathlib.Path:
    """Return the path of the JSON file beside a checkpoint: X.json for X.weights.h5."""
    path = pathlib.Path(path)
    return path.with_name(path.name.removesuffix(ENDING) + ".json")


def description(path):
    """Read and check the JSON file beside a checkpoint. Returns a dict, or None without a file. Raises UserError."""
    file = json_path(path)
    if not file.exists():
        return None
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
        if info["model"] == "warp_tdnn":
            raise UserError(EARLIER_KIND.format(path=path, kind="warp_tdnn"))
        info.update(img_size=int(info["img_size"]), width=float(info["width"]))
        if info["model"] not in (*KINDS, "discriminator") or not isinstance(info.get("hparams", {}), dict):
            raise ValueError(f"model {info['model']}")
        _check_defaults(info)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as e:
        reason = repr(e)[:200]  # it may hold the whole file
        raise UserError(f"{file} does not describe weights ({reason}); restore the saved file, or move it away") from e
    return info


def _check_defaults(info):
    """Raise ValueError or TypeError for unusable inference defaults in a description."""
    if [type(pad) for pad in info.get("pads", [0] * 4)] != [int] * 4:
        raise ValueError(f"pads {info['pads']}")
    if info.get("detector", "cnn") not in ("cnn", "hog"):
        raise ValueError(f"detector {info['detector']}")
    if not abs(float(info.get("sync_offset_ms", 0))) <= MAX_OFFSET_MS:
        raise ValueError(f"sync_offset_ms {info['sync_offset_ms']}")


def check_kind(path, info, requested=None):
    """Raise UserError if a checkpoint's description `info` is not a generator's, or not of the `requested` kind.

    info: from `description`; None (no JSON file) passes, as the kind is known only when the weights are read.
    """
    if info is None:
        return
    if info["model"] not in KINDS:
        raise UserError(f"{path} fits the discriminator, not a generator; give another file")
    if requested not in (None, info["model"]):
        raise UserError(
            f"{path} fits --model {info['model']}, not --model {requested}; change that, or give another file"
        )


def warn_of_differences(path, differences):
    """Warn that a checkpoint was trained with other hparams. differences: a list from `HParams.differences`."""
    warn(f"warning: {path} was trained with other hparams ({', '.join(differences)}); expect worse results")
