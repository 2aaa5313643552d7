"""Video: audio and video on one clock in every container, frames upright in their own colours, exact results."""

import gc
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from helpers.media_files import CODECS, RATES, flash_and_click, grey, write_flash, write_float_wav
from helpers.quadrants import corners, quadrants

from lipgan.media import audio, video
from lipgan.utils.cli import UserError


@pytest.mark.parametrize("fps", RATES, ids=str)
@pytest.mark.parametrize("suffix", CODECS)
def test_click_and_flash_are_read_at_one_moment(tmp_path, suffix, fps):
    path, flash, num_frames = tmp_path / f"x.{suffix}", round(1.4 * fps), round(2 * fps)
    write_flash(path, fps, flash, num_frames)
    found, click_s, count = flash_and_click(path)
    assert (found, count) == (flash, num_frames)
    assert abs(click_s - flash / fps) < 0.002
    info = video.probe(path)
    assert (info.fps, info.num_frames, info.has_audio) == (fps, num_frames, True)
    found, click_s, count = flash_and_click(path, fps=25)  # as preprocessing reads it
    assert abs(found / 25 - click_s) <= 0.02 + 1e-6
    assert count == round(num_frames / fps * 25)


@pytest.mark.parametrize(("start_s", "delay_s"), [(2, 0), (0, 0.4), (1, -0.3), (0, -0.3)])
@pytest.mark.parametrize("suffix", ["mp4", "mpg", "mov", "webm", "mkv"])
def test_start_times_and_delayed_audio_do_not_move_click_from_flash(tmp_path, suffix, start_s, delay_s):
    path, fps = tmp_path / f"x.{suffix}", Fraction(30)
    write_flash(path, fps, 40, 60, start_s, delay_s)
    found, click_s, _ = flash_and_click(path)
    assert found == 40
    assert abs(click_s - 40 / fps) < 0.25 / fps


@pytest.mark.parametrize(("cut_video_s", "cut_audio_s"), [(0.4, 0.4), (0.4, 0), (0, 0.4)])
def test_edit_list_cuts_the_start(tmp_path, cut_video_s, cut_audio_s):
    path = tmp_path / "x.mp4"
    write_flash(path, Fraction(25), 40, 75)
    data, at = bytearray(path.read_bytes()), 0
    for cut_s, scale in (
        (cut_video_s, 12_800),
        (cut_audio_s, 44_100),
    ):  # a phone's editor cuts anywhere
        at = data.index(b"elst", at + 1) + 12  # behind version, flags and the number of edits: duration, start
        duration, start = struct.unpack(">Ii", data[at : at + 8])
        data[at : at + 8] = struct.pack(">Ii", duration - round(cut_s * 1000), start + round(cut_s * scale))
    path.write_bytes(data)
    found, click_s, count = flash_and_click(path)
    assert (found, count) == (40 - cut_video_s * 25, 75 - cut_video_s * 25)
    assert abs(click_s - (1.6 - cut_audio_s)) < 0.002
    assert video.probe(path).num_frames == count


def test_a_variable_rate_becomes_a_constant_one_by_time(tmp_path):
    times = [0, 1, 2, 3, 40, 41, 42, 80, 81, 140]  # in 1/100 s; the flash is at 0.80 s
    write_flash(tmp_path / "x.mkv", Fraction(100), 7, 200, times=times)
    info = video.probe(tmp_path / "x.mkv")
    assert 5 <= info.fps <= 25
    for fps in (info.fps, 25, 60):
        found, click_s, _ = flash_and_click(tmp_path / "x.mkv", fps)
        assert abs(found / fps - 0.80) <= 0.5 / fps + 1e-3
        assert abs(click_s - 0.80) < 0.002


def test_dropped_frames_leave_the_rate_and_the_clock_alone(tmp_path):
    times = [k for k in range(50) if k not in (10, 11, 20, 41)]
    write_flash(tmp_path / "x.mkv", Fraction(25), times.index(30), 50, times=times)
    assert video.probe(tmp_path / "x.mkv").fps == 25
    found, click_s, count = flash_and_click(tmp_path / "x.mkv")
    assert (found, count) == (30, 50)
    assert abs(click_s - 30 / 25) < 0.002


def test_frames_dropped_from_a_short_clip_leave_its_rate_alone(tmp_path):
    write_flash(tmp_path / "x.mkv", Fraction(25), 5, 10, times=[0, 3, 4, 5, 6, 7, 8, 9])
    info = video.probe(tmp_path / "x.mkv")
    assert (info.fps, info.num_frames) == (25, 10)


@pytest.mark.parametrize(("rate", "expected"), [(Fraction(1), 25), (Fraction(240), 120), (Fraction(15), 15)])
def test_absurd_frame_rate_is_limited(tmp_path, rate, expected):
    write_flash(tmp_path / "x.mov", rate, 5, 12)
    info = video.probe(tmp_path / "x.mov")
    assert info.fps == expected
    assert any(f"shows {float(rate):g} frames per second; {expected} are used" in n for n in info.notes) == (rate != 15)
    assert sum(1 for _ in video.read_frames(tmp_path / "x.mov")) == info.num_frames == round(12 / rate * expected)


@pytest.mark.parametrize(
    ("matrix", "upright"),
    [
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),  # a phone held upright: a quarter turn clockwise
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, -1, 1, 0), np.rot90),
        ((-1, 0, 0, 1), np.fliplr),  # a mirrored front camera
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    ],
)
def test_a_phones_video_is_read_upright(tmp_path, matrix, upright):
    path = tmp_path / "x.mp4"
    with video.VideoWriter(path, 64, 48, 25) as writer:
        for _ in range(3):
            writer.write(quadrants())
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # behind version, flags, times, track, duration, layer and volume
    a, b, c, d = (value * 65_536 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    expected = upright(quadrants())
    frame = next(video.read_frames(path))
    assert frame.shape == expected.shape
    assert frame.flags["C_CONTIGUOUS"]
    assert np.abs(corners(frame) - corners(expected)).max() < 8
    info = video.probe(path)
    assert (info.height, info.width) == expected.shape[:2]


def test_pixels_that_are_not_square_become_square(tmp_path):
    with av.open(str(tmp_path / "x.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", 25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        container.mux(stream.encode(grey(100)))
        container.mux(stream.encode(None))
    assert next(video.read_frames(tmp_path / "x.mkv")).shape == (32, 64, 3)


def test_a_file_that_does_not_name_its_colours_is_read_as_players_do():
    assert video.Colour(0, 2, 2, 2).settled(height=480) == (1, 6, 2, 2)
    assert video.Colour(0, 2, 2, 2).settled(height=720) == (1, 1, 2, 2)


def test_damaged_frames_are_skipped_and_the_clock_goes_on(tmp_path):
    path = tmp_path / "x.avi"
    write_flash(path, Fraction(25), 60, 75)
    data = bytearray(path.read_bytes())
    at = [k for k in range(len(data)) if data[k : k + 4] == b"00dc"]
    for chunk in at[20:24]:  # as a corrupted download has it
        size = struct.unpack("<I", data[chunk + 4 : chunk + 8])[0]
        data[chunk + 8 : chunk + 8 + size] = b"\xff" * size
    path.write_bytes(data)
    found, click_s, count = flash_and_click(path)
    assert (found, count) == (60, 75)
    assert abs(click_s - 60 / 25) < 0.002


@pytest.mark.slow
def test_decoded_frames_are_freed_as_soon_as_they_are_read(tmp_path):
    with video.VideoWriter(tmp_path / "long.mp4", 64, 48, 25) as writer:
        for n in range(30):
            writer.write(np.full((48, 64, 3), n, np.uint8))
    info = video.probe(tmp_path / "long.mp4")
    gc.collect()
    gc.disable()  # which would free frames that refer to themselves, late
    try:
        for _ in video.read_frames(info):
            kept = sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects())
    finally:
        gc.enable()
    assert kept < 6


def test_truncated_video_gives_its_remaining_frames(tmp_path):
    write_flash(tmp_path / "x.mkv", Fraction(25), 5, 100)
    data = (tmp_path / "x.mkv").read_bytes()
    (tmp_path / "x.mkv").write_bytes(data[: len(data) * 2 // 3])
    found, click_s, count = flash_and_click(tmp_path / "x.mkv")
    assert found == 5
    assert 20 < count < 100
    assert abs(click_s - 5 / 25) < 0.002
    assert abs(video.probe(tmp_path / "x.mkv").num_frames - count) <= 2


def test_files_without_video_raise_user_error(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.txt").write_text("this is a text\n" * 50)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5_000))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff" + bytes(100))
    write_float_wav(tmp_path / "sound.wav", np.zeros(1_000, np.float32), 16_000)
    for name, words in [
        ("missing.mp4", "does not exist"),
        (".", "is a folder"),
        ("empty.mp4", "is empty"),
        ("text.txt", "is a text"),
        ("noise.mp4", "no audio or video"),
        ("broken.jpg", "no frame"),
        ("sound.wav", "has no video"),
    ]:
        for read in (video.probe, lambda path: next(video.read_frames(path))):
            with pytest.raises(UserError, match=words) as raised:
                read(tmp_path / name)
            assert "\n" not in str(raised.value)


def test_rates_are_rational():
    assert video.as_rate(29.97) == video.as_rate(Fraction(2997, 100)) == Fraction(30000, 1001)
    assert video.as_rate(23.976) == Fraction(24000, 1001)
    assert video.as_rate(25) == video.as_rate(25.0) == 25
    assert video.as_rate(12.5) == Fraction(25, 2)
    with pytest.raises(ValueError, match="above 0"):
        video.as_rate(0)


@pytest.mark.real_data
@pytest.mark.parametrize("folder", ["grid", "addresses", "lrw_ar"])
def test_frames_and_audio_of_real_clips_have_the_probed_length(folder, real_clips):
    clips = sorted((real_clips / folder / "main").glob("*/*.mp4"), key=lambda clip: clip.stat().st_size)
    for clip in clips[:2]:
        info = video.probe(clip)
        assert sum(1 for _ in video.read_frames(clip)) == info.num_frames
        assert abs(len(audio.load_wav(clip)) / 16_000 - info.duration_s) < 0.2
