"""The writer: exactly the frames given, the audio whole and on their clock, colours kept, nothing half-done."""

from fractions import Fraction

import av
import numpy as np
import pytest
from helpers.media_files import RATES, flash_and_click, write_flash, write_float_wav

from lipgan.media import audio, video
from lipgan.utils.cli import UserError


@pytest.mark.parametrize("fps", RATES, ids=str)
def test_written_audio_and_video_stay_in_sync(tmp_path, fps):
    rate, flash, num_frames = 22_050, round(1.4 * fps), round(2 * fps)
    wav = np.zeros(2 * rate, np.float32)
    wav[round(flash / fps * rate) :][:200] = 0.8
    write_float_wav(tmp_path / "x.wav", wav, rate)
    with video.VideoWriter(tmp_path / "x.mp4", 48, 32, fps, audio=tmp_path / "x.wav") as writer:
        for k in range(num_frames):
            writer.write(np.full((32, 48, 3), 230 if flash <= k < flash + 3 else 60, np.uint8))
    found, click_s, count = flash_and_click(tmp_path / "x.mp4")
    assert (found, count) == (flash, num_frames)
    assert abs(click_s - flash / fps) < 0.001
    assert len(audio.load_wav(tmp_path / "x.mp4")) == 32_000


def test_the_frames_of_a_minute_at_29_97_keep_their_times(tmp_path):
    fps, rate = Fraction(30000, 1001), 16_000
    wav = np.zeros(60 * rate, np.float32)
    for second in range(60):
        wav[second * rate + 8_000 :][:100] = 0.8
    write_float_wav(tmp_path / "x.wav", wav, rate)
    with video.VideoWriter(tmp_path / "x.mp4", 32, 32, 29.97, audio=tmp_path / "x.wav") as writer:
        for k in range(1798):
            writer.write(np.full((32, 32, 3), k % 200, np.uint8))
    with av.open(str(tmp_path / "x.mp4")) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert len(times) == 1798
    assert max(abs(time - k / fps) for k, time in enumerate(times)) < 1e-4
    loud = audio.load_wav(tmp_path / "x.mp4") > 0.4
    clicks_s = np.flatnonzero(loud[1:] & ~loud[:-1]) / rate
    assert np.abs(clicks_s - np.arange(0.5, 60)).max() < 0.001


PATCHES = [(200, 60, 30), (30, 180, 220), (120, 140, 180), (16, 16, 16), (250, 250, 250), (20, 20, 220)]  # BGR


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("matrix", "red", "blue"), [(1, 0.2126, 0.0722), (6, 0.299, 0.114), (9, 0.2627, 0.0593)])
def test_colours_survive_and_are_what_the_tags_say(tmp_path, matrix, red, blue, full):
    path, colour = tmp_path / "x.mp4", video.Colour(2 if full else 1, matrix, matrix, matrix)
    images = [np.full((64, 64, 3), patch, np.uint8) for patch in PATCHES]
    with video.VideoWriter(path, 64, 64, 25, encoding=video.Encoding(colour=colour)) as writer:
        for image in images:
            writer.write(image)
    assert video.probe(path).colour == colour
    for frame, image in zip(video.read_frames(path), images, strict=True):
        assert np.abs(frame.astype(int) - image).max() <= 3
    with av.open(str(path)) as container:  # the numbers in the file, by ITU-R's formula
        for frame, (b, g, r) in zip(container.decode(video=0), PATCHES, strict=True):
            luma = red * r + (1 - red - blue) * g + blue * b
            tones = np.array([luma, (b - luma) / (2 - 2 * blue), (r - luma) / (2 - 2 * red)])
            expected = (
                tones + np.array([0, 128, 128]) if full else tones * [219 / 255, *2 * [224 / 255]] + [16, 128, 128]
            )
            found = [np.frombuffer(plane, np.uint8)[10] for plane in frame.planes]
            assert np.abs(found - expected).max() <= 2


def test_lossless_is_bit_exact(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), dtype=np.uint8)
    with video.VideoWriter(tmp_path / "x.mp4", 48, 32, 25, encoding=video.Encoding(lossless=True)) as writer:
        for frame in frames:
            writer.write(frame)
    assert (np.stack(list(video.read_frames(tmp_path / "x.mp4"))) == frames).all()


def test_odd_sizes_are_padded_and_the_comment_is_written(tmp_path):
    with video.VideoWriter(
        tmp_path / "new" / "x.mp4", 51, 33, 25, encoding=video.Encoding(comment="made by lipgan")
    ) as writer:
        writer.write(np.full((33, 51, 3), 200, np.uint8))
    [frame] = video.read_frames(tmp_path / "new" / "x.mp4")
    assert frame.shape == (34, 52, 3)
    assert frame.min() > 190
    with av.open(str(tmp_path / "new" / "x.mp4")) as container:
        assert container.metadata["comment"] == "made by lipgan"
    data = (tmp_path / "new" / "x.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # faststart


@pytest.mark.parametrize(("rate", "written"), [(16_000, 16_000), (44_100, 44_100), (37_800, 44_100), (192_000, 48_000)])
@pytest.mark.parametrize("channels", [1, 2, 6, 8])
def test_the_audio_keeps_its_rate_and_channels_where_aac_has_them(tmp_path, rate, written, channels):
    write_float_wav(tmp_path / "x.wav", np.full((channels, rate // 2), 0.1, np.float32), rate)
    with video.VideoWriter(tmp_path / "x.mp4", 32, 32, 25, audio=tmp_path / "x.wav") as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8))  # the audio is longer than the video, and whole all the same
    blocks = list(audio.read_blocks(tmp_path / "x.mp4"))
    assert (blocks[0].rate, len(blocks[0].samples)) == (written, channels)
    assert abs(sum(block.samples.shape[1] for block in blocks) - written // 2) <= 1
    assert sum(1 for _ in video.read_frames(tmp_path / "x.mp4")) == 1


def test_failed_writing_leaves_no_files(tmp_path):
    (tmp_path / "x.mp4").write_text("an older result")
    with pytest.raises(RuntimeError), video.VideoWriter(tmp_path / "x.mp4", 32, 32, 25) as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8))
        raise RuntimeError("the caller fails")
    with pytest.raises(ValueError, match="no frame"), video.VideoWriter(tmp_path / "x.mp4", 32, 32, 25):
        pass
    with pytest.raises(ValueError, match="uint8"), video.VideoWriter(tmp_path / "x.mp4", 32, 32, 25) as writer:
        writer.write(np.zeros((32, 30, 3), np.uint8))
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.mp4"]
    assert (tmp_path / "x.mp4").read_text() == "an older result"


def test_an_unwritable_result_raises_user_error_before_the_first_frame(tmp_path, monkeypatch):
    write_flash(tmp_path / "x.mkv", Fraction(25), 5, 10)
    with pytest.raises(UserError, match=r"name it x\.mp4"):
        video.VideoWriter(tmp_path / "x.avi", 32, 32, 25)
    for width, speech, words in [(32, "none.wav", "does not exist"), (10**6, "x.mkv", "cannot write")]:
        with pytest.raises(UserError, match=words):
            video.VideoWriter(tmp_path / "y.mp4", width, 32, 25, audio=tmp_path / speech).__enter__()
    monkeypatch.setattr(video, "H264", "nonesuch")
    with pytest.raises(UserError, match="no encoder nonesuch"):
        video.VideoWriter(tmp_path / "y.mp4", 32, 32, 25).__enter__()
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.mkv"]
