"""LipGAN in Keras 3: give it a face and a recording of speech, get a video of that face saying it.

    import lipgan
    lipgan.lipsync("face.jpg", "speech.wav", "out.mp4")

Importing the package loads no Keras; each function below is imported when it is first used.
"""

import importlib

__version__ = "0.5"

_EXPORTS = {
    "lipsync": "lipgan.inference.pipeline",
    "lipsync_frames": "lipgan.inference.pipeline",
    "load_runner": "lipgan.inference.runner",
}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name):
    """Import an exported function at its first use (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
