"""Read the JSON file beside a checkpoint: model kind, img_size, width, hparams. Needs no Keras."""

import json
import pathlib

from lipgan.utils.cli import UserError

ENDING = ".weights.h5"
KINDS = ("residual", "basic", "warp")  # generators
OLDER_KIND = (
    "{path} is a {kind} generator of version 0.4 or older, which hears mel spectrograms; "
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
            raise UserError(OLDER_KIND.format(path=path, kind="warp_tdnn"))
        info.update(img_size=int(info["img_size"]), width=float(info["width"]))
        if info["model"] not in (*KINDS, "discriminator") or not isinstance(info.get("hparams", {}), dict):
            raise ValueError(f"model {info['model']}")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as e:
        raise UserError(f"{file} does not describe weights ({e!r}); restore what was saved, or move it away") from e
    return info


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
