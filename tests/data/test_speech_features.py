"""Speech features of all clips, encoded once in several voices, and the waveform augmentation behind them."""

import numpy as np
import pytest
from helpers.clips import SIZE, write

from lipgan.data import augment, clip_arrays, index
from lipgan.data.clip_folder import AUDIO_NAME, read_audio, write_audio
from lipgan.data.dataset import FaceDataset
from lipgan.utils.cli import UserError
from tools import pack_dataset

speech = pytest.importorskip("lipgan.models.speech")
features = pytest.importorskip("lipgan.data.speech_features")

RATE = 16_000


def loudness(wav):
    """An encoder of one number that matters: how loud it is within 10 ms of each vector's time."""
    padded = np.pad(np.abs(wav), 160)
    levels = [padded[320 * k : 320 * k + 320].max() for k in range(len(wav) // 320 + 1)]
    return np.repeat(np.array(levels, "float32")[:, None], speech.FEATURES, axis=1)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two clips of 2.4 s with a click at the middle of frame 30 of the first, and of frame 20 of the second."""
    for module in (index, clip_arrays):
        monkeypatch.setattr(module, "UNSURE_S", 0.0)
    monkeypatch.setattr(speech, "encode", loudness)
    monkeypatch.setattr(speech, "silence", lambda: np.full(speech.FEATURES, -1, "float32"))
    for number, frame in enumerate((30, 20)):
        folder = write(tmp_path / "data", f"main/a/{number}", number, num_frames=60)
        wav = np.zeros(round(2.4 * RATE), "float32")
        wav[round((frame + 0.5) / 25 * RATE)] = 0.9
        write_audio(folder / AUDIO_NAME, wav)
    return tmp_path / "data"


def opened(root, versions=1, **options):
    found = index.open_index(root)
    clips = [root / name for name in found.names]
    return FaceDataset(clips, SIZE, index=found, speech=features.read_features(found, versions), **options)


def test_a_frames_window_is_centred_on_the_frames_audio(root):
    dataset = opened(root)
    for clip, frame in ((0, 30), (1, 20)):
        window = dataset.speech_window(clip, frame)
        assert window.shape == (speech.WINDOW, speech.FEATURES) and window.dtype == np.float16
        assert window[:, 0].argmax() == speech.WINDOW // 2 and window.max() > 0.8
    assert dataset.speech_window(0, 31)[:, 0].argmax() == speech.WINDOW // 2 - 2
    assert dataset.speech_window(0, 30, num_vectors=5)[:, 0].argmax() == 2


def test_windows_past_the_ends_are_the_encoders_silence(root):
    dataset = opened(root)
    window = dataset.speech_window(0, 0)[:, 0]
    assert (window[: speech.WINDOW // 2 - 1] == -1).all() and (window[speech.WINDOW // 2 - 1 :] >= 0).all()
    assert (dataset.speech_window(0, 59)[-speech.WINDOW // 2 + 2 :, 0] == -1).all()


def test_augmented_voices_keep_the_clips_clock(root):
    dataset = opened(root, versions=12)
    speeds = dataset._speech.arrays.speed[0]
    assert speeds[0] == 1 and len(set(speeds.tolist())) > 3 and (np.abs(speeds - 1) < 0.14).all()
    places = [int(dataset.speech_window(0, 30, version)[:, 0].argmax()) for version in range(12)]
    assert places[0] == speech.WINDOW // 2 and all(abs(place - places[0]) <= 1 for place in places)


def test_a_batch_has_the_speech_of_its_frames_and_of_the_wrong_ones(root):
    batch = opened(root).batch((0, 0, 0), 16)
    assert batch["speech"].shape == batch["wrong_speech"].shape == (16, speech.WINDOW, speech.FEATURES)
    assert batch["speech"].dtype == np.float32 and not np.array_equal(batch["speech"], batch["wrong_speech"])
    plain = FaceDataset([root / "main/a/0", root / "main/a/1"], SIZE).batch((0, 0, 0), 16)
    np.testing.assert_array_equal(plain["target"], batch["target"])  # samples do not depend on what is read of them


def test_only_augmented_samples_have_other_voices(root):
    def voices(**options):
        dataset = opened(root, versions=6, **options)
        clips, frames, windows = dataset.speech_batch((0, 0, 0), 40)
        pairs = zip(clips.tolist(), frames.tolist(), strict=True)
        own = [dataset.speech_window(*pair).astype("float32") for pair in pairs]
        return (windows == np.stack(own)).all(axis=(1, 2))

    assert voices().all()
    assert 0 < voices(augment=True).sum() < 30


def test_only_additional_versions_are_encoded(root, monkeypatch):
    opened(root, versions=2)
    calls = []
    monkeypatch.setattr(speech, "encode", lambda wav: (calls.append(1), loudness(wav))[1])
    opened(root, versions=2)
    opened(root, versions=1)
    assert not calls
    assert opened(root, versions=4)._speech.num_versions == 4 and len(calls) == 4
    opened(root, versions=4)
    assert len(calls) == 4 and len(list(root.glob("speech_*.f16"))) == 1


def test_a_packed_folder_has_the_same_features(root, tmp_path):
    assert pack_dataset.main(["--data_root", str(root), "--out", str(tmp_path / "packed")]) == 0
    tree, packed = opened(root, 3), opened(tmp_path / "packed", 3)
    for version in range(3):
        np.testing.assert_array_equal(tree.speech_window(1, 20, version), packed.speech_window(1, 20, version))


def test_clip_without_audio_raises_user_error(root):
    (root / "main/a/1" / AUDIO_NAME).unlink()
    with pytest.raises(UserError, match=r"main/a/1/audio\.wav cannot be read .*preprocess again"):
        opened(root)


def test_audio_round_trip(tmp_path):
    wav = np.sin(np.arange(1000) / 7).astype("float32")
    write_audio(tmp_path / AUDIO_NAME, wav)
    np.testing.assert_allclose(read_audio(tmp_path / AUDIO_NAME), wav, atol=1e-4)


@pytest.mark.parametrize("pitch, speed", [(0.8, 1.0), (1.25, 1.0), (1.0, 0.9), (1.1, 1.1)])
def test_a_changed_voice_has_its_pitch_and_its_tempo(pitch, speed):
    time_s = np.arange(2 * RATE) / RATE
    wav = (0.3 * np.sin(2 * np.pi * 400 * time_s) * (time_s > 1)).astype("float32")
    changed = augment.change_voice(wav, pitch, speed)
    assert abs(len(changed) - len(wav) / speed) < 300
    onset = np.flatnonzero(np.abs(changed) > 0.1)[0] / RATE
    assert abs(onset - 1 / speed) < 0.02
    tone = changed[round(1.2 / speed * RATE) : round(1.8 / speed * RATE)]
    peak_hz = np.abs(np.fft.rfft(tone * np.hanning(len(tone)))).argmax() * RATE / len(tone)
    assert abs(peak_hz - 400 * pitch) < 8


@pytest.mark.parametrize("change", [augment._colour_spectrum, augment._add_room, augment._add_noise])
def test_recording_conditions_do_not_delay_the_audio(change):
    wav = np.zeros(RATE, "float32")
    wav[8000:8040] = 0.8
    for seed in range(8):
        changed = change(wav, np.random.default_rng(seed))
        assert changed.shape == wav.shape and changed.dtype == np.float32 and not np.array_equal(changed, wav)
        assert 7990 <= np.abs(changed).argmax() <= 8050


def test_silence_and_short_audio_can_be_augmented():
    for size in (1, 20, 1600):
        for seed in range(6):
            wav, speed = augment.augment_waveform(np.zeros(size, "float32"), np.random.default_rng(seed))
            assert np.isfinite(wav).all() and speed > 0
