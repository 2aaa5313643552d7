"""The weights that `make demo` uses, on the example portrait, against frames stored beside this file.

After new weights, look at the new mouths and store them:

    PYTHONPATH=. python tests/test_shipped_weights.py
"""

import pathlib
import wave

import cv2
import numpy as np
import pytest

import batch_inference
from lipgan.media import video

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[1]
STORED = pathlib.Path(__file__).with_name("shipped_mouths.png")
MOUTH = np.s_[124:172, 194:254]  # rows and columns of the portrait: 48 x 60 pixels around the mouth
START_S, SECONDS = 0.4, 0.5  # of examples/speech.wav: within a word


def speak(folder):
    """Lip-sync the portrait to half a second of speech. Returns its mouths, (12, 48, 60, 3) BGR uint8."""
    audio, result = folder / "half_second.wav", folder / "result.mp4"
    with wave.open(str(ROOT / "examples" / "speech.wav")) as source, wave.open(str(audio), "wb") as target:
        target.setparams(source.getparams())
        source.setpos(round(START_S * source.getframerate()))
        target.writeframes(source.readframes(round(SECONDS * source.getframerate())))
    options = ["--checkpoint_path", ROOT / "weights" / "warp.weights.h5", "--face", ROOT / "examples" / "astronaut.jpg"]
    options += ["--audio", audio, "--outfile", result, "--lossless", "--overwrite"]
    assert batch_inference.main([str(option) for option in options]) == 0
    return np.stack([frame[MOUTH] for frame in video.read_frames(result)])


def stored_mouths():
    """Read the stored strip as (12, 48, 60, 3)."""
    return np.stack(np.vsplit(cv2.imread(str(STORED)), round(SECONDS * 25)))


def psnr(a, b):
    """Return the peak signal-to-noise ratio of two uint8 images in dB."""
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-6))


@pytest.fixture(scope="module")
def mouths(tmp_path_factory):
    return speak(tmp_path_factory.mktemp("shipped"))


def test_mouths_of_the_shipped_weights_are_the_stored_ones(mouths):
    assert [psnr(*pair) > 35 for pair in zip(mouths, stored_mouths(), strict=True)] == [True] * len(mouths)


def test_mouths_of_the_shipped_weights_are_on_time(mouths):
    """Shifted by a frame or more, the result agrees less with the stored frames."""
    stored, count = stored_mouths(), len(mouths)

    def difference(lag):
        pairs = [(mouths[k + lag], stored[k]) for k in range(count) if 0 <= k + lag < count]
        return np.mean([np.abs(a.astype(float) - b).mean() for a, b in pairs])

    assert min(range(-4, 5), key=difference) == 0


def test_the_mouth_moves(mouths):
    """Half a second of speech is not one shape of the mouth."""
    assert np.abs(mouths.astype(float) - mouths.mean(0)).mean() > 0.8


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        cv2.imwrite(str(STORED), np.concatenate(speak(pathlib.Path(folder))))
    print(f"wrote {STORED}")
