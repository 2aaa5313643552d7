"""What the JSON beside a file of weights says of them. It can be read without Keras, which takes a second to import."""

import json
import pathlib

from lipgan.utils.cli import UserError

ENDING = ".weights.h5"
KINDS = ("residual", "basic", "warp", "warp_tdnn")  # of generators


def json_path(path) -> pathlib.Path:
    """Where the description of the weights in `path` lies: X.json for X.weights.h5."""
    path = pathlib.Path(path)
    return path.with_name(path.name.removesuffix(ENDING) + ".json")


def description(path):
    """What the JSON beside the weights in `path` says, checked; None where there is no JSON. Raises UserError."""
    text = json_path(path)
    if not text.exists():
        return None
    try:
        info = json.loads(text.read_text(encoding="utf-8"))
        info.update(img_size=int(info["img_size"]), width=float(info["width"]))
        if info["model"] not in (*KINDS, "discriminator") or not isinstance(info.get("hparams", {}), dict):
            raise ValueError(f"model {info['model']}")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as e:
        raise UserError(f"{text} does not describe weights ({e!r}); put back what was saved, or move it away") from e
    return info


def check_kind(path, info, wanted=None):
    """Raise UserError where the description `info` of the weights in `path` is no generator's, or not a `wanted` one's.

    info None: nothing is known before the weights are read.
    """
    if info is None:
        return
    if info["model"] not in KINDS:
        raise UserError(f"{path} fits the discriminator, not a generator; give another file")
    if wanted not in (None, info["model"]):
        raise UserError(f"{path} fits --model {info['model']}, not --model {wanted}; change that, or give another file")
