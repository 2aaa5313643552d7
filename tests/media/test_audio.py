"""Audio: on its clock whatever the file, mel spectrograms equal to librosa's, windows centred on frames."""

import tracemalloc
import wave
from fractions import Fraction

import av
import librosa
import numpy as np
import pytest

from audio_hparams import hparams
from lipgan.media import audio
from lipgan.media.container import video_stream
from lipgan.utils.cli import UserError

CLICK_S = 0.6


def click(rate, duration_s=1.0):
    """Silence with 10 ms of 0.5 from CLICK_S on: (n,) float32."""
    wav = np.zeros(round(rate * duration_s), np.float32)
    wav[round(CLICK_S * rate) :][: rate // 100] = 0.5
    return wav


def write_pcm(path, samples, rate, width=2):
    """Write (n, channels) in [-1, 1] as a wav of `width` bytes a sample."""
    numbers = np.round(samples * (2 ** (8 * width - 1) - 1)).astype("<i4")
    raw = (numbers + 128).astype("u1") if width == 1 else numbers.view("u1").reshape(-1, 4)[:, :width]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(raw.tobytes())


def write_audio(path, wav, codec, rate, jump=(0, 0), cover=False, title=None):
    """Encode (n,) float32 with PyAV in stereo; from sample jump[0] on, timestamps are jump[1] samples later."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate)
        stream.layout = "stereo"
        if title:
            container.metadata["title"] = title
        if cover:
            cover_stream = container.add_stream("mjpeg", 1)
            cover_stream.width = cover_stream.height = 16
            cover_stream.pix_fmt = "yuvj420p"
            cover_stream.disposition = av.stream.Disposition.attached_pic
            container.mux(cover_stream.encode(av.VideoFrame(16, 16, "yuvj420p")))
        for first in range(0, len(wav), 1000):
            piece = np.repeat(wav[first : first + 1000], 2)[None]
            frame = av.AudioFrame.from_ndarray(piece, "flt", "stereo")
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = first + (jump[1] if first >= jump[0] else 0)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def loud_at(wav):
    """The time of the first loud sample of 16 kHz audio, in seconds."""
    return np.flatnonzero(np.abs(wav) > 0.25)[0] / hparams.sample_rate


def librosa_mel(wav):
    """The mel spectrogram of the reference, written with librosa."""
    emphasised = np.append(wav[:1], wav[1:].astype("float64") - hparams.preemphasis * wav[:-1])
    padded = np.pad(emphasised, hparams.n_fft // 2, mode="reflect")
    magnitude = np.abs(librosa.stft(y=padded, n_fft=hparams.n_fft, hop_length=hparams.hop_size, center=False))
    bank = librosa.filters.mel(
        sr=hparams.sample_rate, n_fft=hparams.n_fft, n_mels=hparams.num_mels, fmin=hparams.fmin, fmax=hparams.fmax
    )
    level_db = 20 * np.log10(np.maximum(1e-5, bank @ magnitude)) - hparams.ref_level_db
    return np.clip(8 * (level_db + 100) / 100 - 4, -4, 4)


@pytest.mark.slow
@pytest.mark.parametrize("num_samples", [1, 2, 16, 399, 400, 401, 12_345])
def test_the_mel_spectrogram_equals_librosas_for_any_length(num_samples):
    wav = np.random.default_rng(num_samples).normal(0, 0.1, num_samples).astype("float32")
    mel = audio.melspectrogram(wav)
    assert mel.dtype == np.float32
    assert mel.shape == (80, 1 + num_samples // 200)
    assert np.abs(mel - librosa_mel(wav)).max() < 1e-4


def test_the_mel_spectrogram_equals_librosas_across_chunks_and_from_silence_to_overload(monkeypatch):
    monkeypatch.setattr(audio, "FRAMES_PER_CHUNK", 7)
    time = np.arange(16_000) / 16_000
    wav = (10 ** np.linspace(-7, 1, 16_000) * np.sin(2 * np.pi * 2000 * time**2)).astype("float32")
    mel = audio.melspectrogram(wav)
    assert np.abs(mel - librosa_mel(wav)).max() < 1e-4
    assert mel.min() == -4
    assert mel.max() == 4


def test_the_mel_spectrogram_of_two_minutes_takes_little_more_memory_than_its_result():
    wav = np.random.default_rng(0).normal(0, 0.1, 120 * 16_000).astype("float32")
    audio.mel_bank()
    tracemalloc.start()
    mel = audio.melspectrogram(wav)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < mel.nbytes + 60e6  # does not depend on the length


def test_no_samples_have_no_mel_spectrogram():
    with pytest.raises(ValueError, match="at least one sample"):
        audio.melspectrogram(np.zeros(0, np.float32))


@pytest.mark.parametrize("fps", [24, 25, Fraction(30000, 1001), 30, 50, 60])
def test_a_mel_window_is_centred_on_the_middle_of_its_frame(fps):
    mel = np.arange(400, dtype="float32")[None].repeat(80, axis=0)  # every mel frame holds its own index
    for frame in range(int(fps), 3 * int(fps)):
        window = audio.mel_window(mel, frame, fps)
        assert window.shape == (80, 27)
        assert abs(window.mean() - (frame + 0.5) / float(fps) * 80) <= 0.5  # mel frame k is centred on k * 12.5 ms


def test_a_mel_window_is_silent_past_either_end():
    mel = np.zeros((80, 40), np.float32)
    first = audio.mel_window(mel, 0, 25)  # mel frames -11 to 15
    assert (first[:, :11] == -4).all()
    assert (first[:, 11:] == 0).all()
    last = audio.mel_window(mel, 12, 25)  # mel frames 27 to 53
    assert (last[:, :13] == 0).all()
    assert (last[:, 13:] == -4).all()
    assert (audio.mel_window(mel, 1_000, 25) == -4).all()
    assert (audio.mel_window(mel[:, :3], 0, 25) == 0).sum() == 80 * 3


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 192_000])
def test_wav_of_any_rate_and_width_keeps_its_clock_length_and_level(tmp_path, rate, width):
    write_pcm(tmp_path / "x.wav", click(rate)[:, None].repeat(2, axis=1), rate, width)
    wav = audio.load_wav(tmp_path / "x.wav")
    assert wav.dtype == np.float32
    assert len(wav) == 16_000
    assert abs(loud_at(wav) - CLICK_S) < 0.001
    assert 0.48 < np.median(wav[np.abs(wav) > 0.25]) < 0.54  # a mixture of two equal channels is as loud as one


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 7, 8, 11])
def test_wav_channels_are_mixed_to_mono_and_preserved_when_streamed(tmp_path, channels):
    write_pcm(tmp_path / "x.wav", click(16_000)[:, None].repeat(channels, axis=1), 16_000)
    assert abs(np.abs(audio.load_wav(tmp_path / "x.wav")).max() - 0.5) < 0.01
    assert {block.samples.shape[0] for block in audio.read_blocks(tmp_path / "x.wav")} == {channels}


def test_a_film_is_mixed_mostly_from_its_centre_where_the_speech_is(tmp_path):
    speech, rumble = np.zeros((8_000, 6)), np.zeros((8_000, 6))
    speech[:, 2] = rumble[:, 3] = 0.5  # 5.1: left, right, centre, low frequencies, ...
    write_pcm(tmp_path / "speech.wav", speech, 16_000)
    write_pcm(tmp_path / "rumble.wav", rumble, 16_000)
    assert audio.load_wav(tmp_path / "speech.wav").max() > 0.15
    assert audio.load_wav(tmp_path / "rumble.wav").max() == 0


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("x.mp3", "libmp3lame", 44_100),
        ("x.mp3", "libmp3lame", 16_000),
        ("x.m4a", "aac", 44_100),
        ("x.ogg", "libopus", 48_000),
        ("x.opus", "libopus", 16_000),
        ("x.flac", "flac", 44_100),
        ("x.wav", "pcm_f32le", 48_000),
        ("x.mkv", "aac", 48_000),
    ],
)
def test_encoder_delay_is_removed(tmp_path, name, codec, rate):
    write_audio(tmp_path / name, click(rate), codec, rate)
    wav = audio.load_wav(tmp_path / name)
    assert abs(loud_at(wav) - CLICK_S) < 0.002
    assert 16_000 - 16 <= len(wav) <= 16_000 + 16 + (1024 if name == "x.mkv" else 0)  # mkv does not say the padding


def test_the_cover_of_a_song_is_not_a_video(tmp_path):
    write_audio(tmp_path / "x.mp3", click(44_100), "libmp3lame", 44_100, cover=True)
    with av.open(str(tmp_path / "x.mp3")) as container:
        assert container.streams.video
        assert video_stream(container) is None
    assert abs(loud_at(audio.load_wav(tmp_path / "x.mp3")) - CLICK_S) < 0.002


def test_a_gap_in_the_timestamps_is_silence_so_that_the_audio_cannot_drift(tmp_path):
    write_audio(tmp_path / "x.mkv", click(16_000), "pcm_s16le", 16_000, jump=(4_000, 3_200))
    wav = audio.load_wav(tmp_path / "x.mkv")
    assert len(wav) == 16_000 + 3_200
    assert abs(loud_at(wav) - CLICK_S - 0.2) < 0.001


def test_small_steps_in_the_timestamps_are_left_alone(tmp_path):
    write_audio(tmp_path / "x.mkv", click(16_000), "pcm_s16le", 16_000, jump=(4_000, 320))
    assert len(audio.load_wav(tmp_path / "x.mkv")) == 16_000


def test_a_change_of_rate_and_channels_inside_a_file_changes_neither_clock_nor_format():
    convert = audio._Converter(16_000, "mono", 1)
    stereo = [audio.Block(np.full((2, 4410), 0.5, np.float32), 44_100, "stereo")] * 10
    mono = [audio.Block(np.full((1, 1600), 0.25, np.float32), 16_000, "mono")] * 10
    blocks = [converted for block in [*mono, *stereo, *mono, None] for converted in convert(block)]
    wav = np.concatenate([block.samples for block in blocks], axis=1)
    assert wav.shape[0] == 1
    assert abs(wav.shape[1] - 48_000) <= 2
    assert np.abs(wav[0, 17_000:31_000] - 0.5).max() < 0.01
    assert np.abs(wav[0, 33_000:] - 0.25).max() < 0.01


def test_blocks_are_streamed_and_none_is_long(tmp_path):
    write_pcm(tmp_path / "x.wav", np.zeros((160_000, 2)), 16_000)
    lengths = [block.samples.shape[1] for block in audio.read_blocks(tmp_path / "x.wav")]
    assert sum(lengths) == 160_000
    assert max(lengths) <= 16_000


def test_title_that_is_not_utf8_is_ignored(tmp_path):
    write_audio(tmp_path / "x.mp3", click(16_000), "libmp3lame", 16_000, title="title TITLE")
    data = (tmp_path / "x.mp3").read_bytes()
    assert data.count(b"title TITLE")
    (tmp_path / "x.mp3").write_bytes(data.replace(b"title TITLE", b"\xe9t\xff\xfe TITLE\xe9"))
    assert abs(loud_at(audio.load_wav(tmp_path / "x.mp3")) - CLICK_S) < 0.002


def test_truncated_audio_file_gives_its_remaining_samples(tmp_path):
    write_audio(tmp_path / "x.mp3", click(44_100), "libmp3lame", 44_100)
    whole = (tmp_path / "x.mp3").read_bytes()
    (tmp_path / "x.mp3").write_bytes(whole[: len(whole) * 3 // 4])
    assert abs(loud_at(audio.load_wav(tmp_path / "x.mp3")) - CLICK_S) < 0.002


def test_files_without_audio_raise_user_error(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.txt").write_text("this is a text, not audio\n" * 50)
    (tmp_path / "text.wav").write_text("this is a text, not audio\n" * 50)
    write_pcm(tmp_path / "silent.wav", np.zeros((0, 1)), 16_000)
    with av.open(str(tmp_path / "mute.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", 25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode(None))
    for name, words in [
        ("missing.wav", "does not exist"),
        (".", "is a folder"),
        ("empty.wav", "is empty"),
        ("text.txt", "is a text"),
        ("text.wav", "no audio"),
        ("silent.wav", "is empty or cannot be decoded"),
        ("mute.mp4", "has no audio"),
    ]:
        with pytest.raises(UserError, match=words) as raised:
            audio.load_wav(tmp_path / name)
        assert "\n" not in str(raised.value)
