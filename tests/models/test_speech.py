"""The speech encoder: equal to hama's own engine, on the clock, in chunks, at any level, on any audio."""

import os
import pathlib
import wave

import numpy as np
import pytest

from lipgan.models import speech
from lipgan.utils.cli import UserError

ROOT = pathlib.Path(__file__).parents[2]
CASES = pathlib.Path(os.environ.get("LIPGAN_DATA", ROOT.parent / "shared" / "data")).parent / "cases"


@pytest.fixture(scope="module")
def wav():
    """The example's speech, (n,) float32 at 16 kHz."""
    with wave.open(str(ROOT / "examples" / "speech.wav")) as file:
        assert file.getframerate() == speech.SAMPLE_RATE
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype("float32") / 32768


@pytest.fixture
def unlevelled(monkeypatch):
    """Encode audio at its own level."""
    monkeypatch.setattr(speech, "speech_gain", lambda wav: 1.0)


def correlation(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


@pytest.mark.slow
def test_log_probabilities_equal_those_of_the_packages_engine(wav, unlevelled):
    hama = pytest.importorskip("hama")
    try:
        from hama import _engine, asr

        session = _engine.AsrSession(asr._read_asr_hama_bytes(None))
        outputs = session.run(["log_probs"], {"waveform": wav, "waveform_lengths": None})
    except (ImportError, OSError, AttributeError) as e:
        pytest.skip(f"the engine of {hama.__name__} does not run here: {e}")
    expected = (next(iter(outputs.values())) if isinstance(outputs, dict) else outputs[0])[0]
    probabilities = speech.phoneme_probabilities(speech.encode(wav))
    assert probabilities.shape == expected.shape
    np.testing.assert_allclose(np.log(probabilities), expected, rtol=0, atol=1e-3)


@pytest.mark.real_data
def test_features_equal_the_stored_prototype(wav, unlevelled):
    if not (CASES / "speech_encoder.npz").is_file():
        pytest.skip(f"{CASES} is absent")
    stored = np.load(CASES / "speech_encoder.npz")
    features = speech.encode(wav)
    np.testing.assert_allclose(features[:, : speech.CHANNELS], stored["block2"], atol=0.02)  # stored in half precision
    expected = np.exp(stored["log_probs"].astype("float32"))
    np.testing.assert_allclose(speech.phoneme_probabilities(features), expected, atol=0.02)


@pytest.mark.slow
def test_chunked_features_agree_with_whole_ones(wav, monkeypatch):
    long = np.concatenate([wav, wav[::-1], wav])
    monkeypatch.setattr(speech, "CHUNK", 4 * speech.SAMPLE_RATE)
    chunked = speech.encode(long)
    monkeypatch.setattr(speech, "CHUNK", len(long) + 1)
    assert correlation(chunked, speech.encode(long)) > 0.98


@pytest.mark.parametrize("sample", [16_000, 20_000])
def test_click_is_at_its_feature_vector(sample, unlevelled):
    silence, click = np.zeros(48_000, "float32"), np.zeros(48_000, "float32")
    click[sample] = 0.9
    change = np.square(speech.encode(click) - speech.encode(silence)).mean(1)
    assert abs(change.argmax() - sample / speech.STRIDE) <= 1


@pytest.mark.parametrize("fps, frame, vector", [(25, 0, 1), (25, 1, 3), (25, 2, 5), (50, 0, 1), (50, 1, 2), (30, 2, 4)])
def test_the_window_of_a_frame_is_centred_on_its_middle(fps, frame, vector):
    assert speech.middle_vector(frame, fps) == vector
    features = np.arange(40, dtype="float32")[:, None].repeat(speech.FEATURES, 1)
    window = speech.feature_window(features, frame + 10 * fps // 25, fps)
    assert window.shape == (speech.WINDOW, speech.FEATURES)
    assert window[speech.WINDOW // 2, 0] == speech.middle_vector(frame + 10 * fps // 25, fps)


def test_windows_beyond_the_recording_are_silence():
    features = np.ones((10, speech.FEATURES), "float32")
    window = speech.feature_window(features, 0, 25)
    np.testing.assert_array_equal(window[0], speech.silence())
    np.testing.assert_array_equal(window[speech.WINDOW // 2], features[0])


def test_quiet_speech_has_the_features_of_loud_speech(wav):
    quiet = np.round(wav * 10 ** (-30 / 20) * 32768) / 32768  # also in 16 bits
    assert correlation(speech.encode(quiet.astype("float32")), speech.encode(wav)) > 0.97


def test_silence_and_steady_noise_are_not_amplified():
    rng = np.random.default_rng(0)
    assert speech.speech_gain(np.zeros(16_000, "float32")) == 1
    assert speech.speech_gain(rng.normal(0, 1e-3, 160_000).astype("float32")) < 1.5


@pytest.mark.parametrize("num_samples", [0, 1, 16, 319, 320, 321, 5_000])
def test_audio_of_any_length_is_encoded(num_samples):
    features = speech.encode(np.full(num_samples, 0.1, "float32"))
    assert features.shape == (speech.num_vectors(num_samples), speech.FEATURES)
    assert np.isfinite(features).all()


def test_nan_and_infinite_samples_count_as_silence():
    assert np.isfinite(speech.encode(np.full(3_200, np.nan, "float32"))).all()


def test_missing_package_raises_user_error(monkeypatch):
    speech._tensors.cache_clear()
    monkeypatch.setattr(speech.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"hama.*pip install"):
        speech._tensors()
