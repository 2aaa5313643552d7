"""Inputs that people really have: what their phones, recorders and editors write, and what they type."""

import os
import wave
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from helpers.media_files import write_flash, write_float_wav
from helpers.quadrants import quadrants
from PIL import Image, ImageCms

from lipgan.media import audio, tone_map, video
from lipgan.media.image import read_image
from lipgan.utils.cli import UserError

RATE = 16_000


def tone(seconds=0.5, level=0.5):
    """Return (n,) float32 at 16 kHz."""
    return (level * np.sin(np.arange(round(seconds * RATE)) * 0.2)).astype(np.float32)


def write_tracks(path, *tracks, codec="pcm_s16le"):
    """Write audio tracks, each (n,) or (channels, n) float32 at 16 kHz, into one file."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream(codec, RATE) for _ in tracks]
        for stream, wav in zip(streams, tracks, strict=True):
            stream.layout = audio.USUAL_LAYOUTS[len(np.atleast_2d(wav))]
        for stream, wav in zip(streams, tracks, strict=True):
            frame = audio.as_frame(audio.Block(np.atleast_2d(wav), RATE, stream.layout.name))
            frame.pts, frame.time_base = 0, Fraction(1, RATE)
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def write_frames(path, frames, codec="libx264", fps=25, colour=None, **options):
    """Encode av.VideoFrames. colour: a video.Colour. options: the encoder's."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, fps)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        stream.options = options
        if colour:
            context = stream.codec_context
            context.color_range, context.colorspace, context.color_primaries, context.color_trc = colour
        for k, frame in enumerate(frames):
            frame.pts, frame.time_base = k, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


# Audio ----------------------------------------------------------------------------------------------------------------


def test_audio_that_starts_before_its_video_is_whole_with_another_face(tmp_path):
    write_flash(tmp_path / "late.mkv", Fraction(25), 40, 60, start_s=2, delay_s=-0.8)
    own = audio.open_audio(tmp_path / "late.mkv", on_video_clock=False)
    with_video = audio.open_audio(tmp_path / "late.mkv")
    assert abs(len(audio.load_wav(own)) / RATE - 3.2) < 0.06
    assert abs(len(audio.load_wav(with_video)) / RATE - 2.4) < 0.06


def test_audio_that_starts_after_its_video_keeps_its_pause_with_another_face(tmp_path):
    write_flash(tmp_path / "x.mkv", Fraction(25), 40, 60, delay_s=0.4)
    wav = audio.load_wav(audio.open_audio(tmp_path / "x.mkv", on_video_clock=False))
    assert abs(np.flatnonzero(np.abs(wav) > 0.3)[0] / RATE - 40 / 25) < 0.002


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
def test_nan_and_infinite_samples_become_silence(tmp_path, value):
    wav = tone()
    wav[4_000:4_010] = value
    write_float_wav(tmp_path / "x.wav", wav, RATE)
    track = audio.open_audio(tmp_path / "x.wav")
    assert any("10 samples" in note and "NaN or infinite" in note for note in track.notes)
    expected = np.where(np.arange(len(wav)) // 10 == 400, 0, wav)
    np.testing.assert_allclose(audio.load_wav(track), expected, atol=1e-6)


@pytest.mark.parametrize("scale", [2**15, 2**23, 2**31])
def test_float_samples_on_an_integer_scale_are_divided_by_it(tmp_path, scale):
    write_float_wav(tmp_path / "x.wav", tone() * scale, RATE)
    track = audio.open_audio(tmp_path / "x.wav")
    assert any(f"divided by {scale}" in note for note in track.notes)
    np.testing.assert_allclose(audio.load_wav(track), tone(), atol=1e-5)


def test_float_samples_a_little_over_full_scale_are_left_alone(tmp_path):
    write_float_wav(tmp_path / "x.wav", tone(level=1.8), RATE)
    track = audio.open_audio(tmp_path / "x.wav")
    assert (track.gain, track.notes) == (1.0, ())


def test_channels_in_opposite_phase_do_not_cancel_speech(tmp_path):
    write_tracks(tmp_path / "x.wav", np.stack([tone(), -tone()]))
    track = audio.open_audio(tmp_path / "x.wav")
    assert any("cancel each other out" in note for note in track.notes)
    np.testing.assert_allclose(np.abs(audio.load_wav(track)), np.abs(tone()), atol=1e-3)


@pytest.mark.parametrize(("channels", "heard"), [(2, 1), (6, 0), (6, 2)])
def test_silent_channels_do_not_make_speech_quieter(tmp_path, channels, heard):
    wav = np.zeros((channels, 8_000), np.float32)
    wav[heard] = tone()
    write_tracks(tmp_path / "x.wav", wav)
    np.testing.assert_allclose(audio.load_wav(tmp_path / "x.wav"), tone(), atol=1e-3)


def test_independent_channels_are_mixed(tmp_path):
    rng = np.random.default_rng(0)
    wav = rng.uniform(-0.5, 0.5, (2, 8_000)).astype(np.float32)
    write_tracks(tmp_path / "x.wav", wav)
    np.testing.assert_allclose(audio.load_wav(tmp_path / "x.wav"), wav.mean(0), atol=1e-3)


def test_a_spoken_track_beside_a_silent_default_one_is_used(tmp_path):
    write_tracks(tmp_path / "x.mkv", np.zeros(8_000, np.float32), tone())
    track = audio.open_audio(tmp_path / "x.mkv")
    assert track.index == 1
    assert any("2 audio tracks; number 1" in note for note in track.notes)
    assert np.abs(audio.load_wav(track)).max() > 0.4


def test_requested_audio_track_is_used(tmp_path):
    write_tracks(tmp_path / "x.mkv", tone(level=0.25), tone(level=0.75))
    levels = [np.abs(audio.load_wav(audio.open_audio(tmp_path / "x.mkv", track=n))).max() for n in (0, 1)]
    np.testing.assert_allclose(levels, [0.25, 0.75], atol=0.01)
    with pytest.raises(UserError, match=r"--audio_track 2: .* numbered from 0 to 1"):
        audio.open_audio(tmp_path / "x.mkv", track=2)


def test_a_track_without_a_decoder_does_not_hide_one_that_has(tmp_path):
    write_tracks(tmp_path / "x.mov", tone(), tone(level=0.2))
    data = bytearray((tmp_path / "x.mov").read_bytes())
    first = data.index(b"sowt", data.index(b"stsd"))
    data[first : first + 4] = b"nope"  # as a phone's spatial audio, for a player that does not know it
    (tmp_path / "x.mov").write_bytes(data)
    track = audio.open_audio(tmp_path / "x.mov")
    assert track.index == 1
    assert abs(np.abs(audio.load_wav(track)).max() - 0.2) < 0.01
    with pytest.raises(UserError, match=r"cannot be decoded \(number 0"):
        audio.open_audio(tmp_path / "x.mov", track=0)


def test_silent_audio_is_noted(tmp_path):
    write_tracks(tmp_path / "x.wav", np.zeros((2, 8_000), np.float32))
    track = audio.open_audio(tmp_path / "x.wav")
    assert any("is silent" in note for note in track.notes)
    assert not audio.load_wav(track).any()


def test_quiet_speech_does_not_count_as_silence(tmp_path):
    write_tracks(tmp_path / "x.wav", tone(level=10 ** (-30 / 20) * 0.3))  # -30 dB
    track = audio.open_audio(tmp_path / "x.wav")
    assert track.notes == ()
    assert np.abs(audio.load_wav(track)).max() > 0.009


def test_samples_of_64_bits_are_read(tmp_path):
    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((tone() * 2**63).astype("<i8").tobytes())
    data = bytearray((tmp_path / "x.wav").read_bytes())
    data[28:36] = (RATE * 8).to_bytes(4, "little") + (8).to_bytes(2, "little") + (64).to_bytes(2, "little")
    (tmp_path / "x.wav").write_bytes(data)
    np.testing.assert_allclose(audio.load_wav(tmp_path / "x.wav"), tone(), atol=1e-5)


def test_a_clock_that_jumps_by_hours_inserts_no_hours_of_silence(tmp_path):
    with av.open(str(tmp_path / "x.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", RATE)
        stream.layout = "mono"
        for k in range(8):
            frame = audio.as_frame(audio.Block(tone(1000 / RATE)[None], RATE, "mono"))
            frame.pts, frame.time_base = 1000 * k + (k > 3) * 10 * 3600 * RATE, Fraction(1, RATE)
            container.mux(stream.encode(frame))
    assert len(audio.load_wav(tmp_path / "x.mkv")) == 8_000


# Video ----------------------------------------------------------------------------------------------------------------


def write_changing(path, *sizes, codec="libx264"):
    """Write 15 grey frames of each (width, height, level) one after the other, as WebRTC recorders do."""
    parts = [path.with_name(f"part{number}.h264") for number in range(len(sizes))]
    for part, (width, height, level) in zip(parts, sizes, strict=True):
        write_frames(part, [grey(level, width, height) for _ in range(15)])
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def grey(level, width=48, height=32):
    return av.VideoFrame.from_ndarray(np.full((height, width, 3), level, np.uint8), "bgr24").reformat(format="yuv420p")


def test_frames_of_other_shapes_are_fitted_into_the_largest_size_with_bars(tmp_path):
    path = write_changing(tmp_path / "x.h264", (48, 64, 200), (96, 64, 200), (48, 32, 200))
    info = video.probe(path)
    assert (info.width, info.height) == (96, 64)
    assert any("frame size" in note and "48 x 64" in note for note in info.notes)
    frames = list(video.read_frames(info))
    assert {frame.shape for frame in frames} == {(64, 96, 3)}
    bars, whole, enlarged = frames[0], frames[20], frames[-1]
    assert (bars[:, :20].max(), bars[:, -20:].max()) == (0, 0)
    for image in (bars[4:-4, 30:66], whole, enlarged):
        assert np.abs(image.astype(int) - 200).max() < 6


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_a_transparent_webm_lies_on_white(tmp_path, codec):
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[:, :, :3], picture[:, :32, 3] = 60, 255
    frame = av.VideoFrame.from_ndarray(picture, "bgra").reformat(format="yuva420p")
    path = write_frames(tmp_path / "x.webm", [frame] * 3, codec, **{"auto-alt-ref": "0"})
    frame = next(video.read_frames(path))
    assert np.abs(frame[:, :28].astype(int) - 60).max() < 12
    assert frame[:, 36:].min() > 240


def test_interlaced_video_is_deinterlaced(tmp_path):
    frames = []
    for k in range(12):  # a bar that moves between the two fields of every frame
        picture = np.full((64, 96, 3), 40, np.uint8)
        for field in (0, 1):
            left = 4 * (2 * k + field) % 80
            picture[field::2, left : left + 12] = 220
        frames.append(
            av.VideoFrame.from_ndarray(picture, "bgr24").reformat(format="yuv422p").reformat(format="yuv420p")
        )

    path = write_frames(tmp_path / "x.mpg", frames, "mpeg2video", flags="+ildct+ilme", top="1")
    info = video.probe(path)
    assert any("is interlaced" in note for note in info.notes)
    read = list(video.read_frames(info))
    assert len(read) == 12
    combs = [np.abs(np.diff(f[:, :, 1].astype(int), axis=0)).mean() for f in read[2:-2]]
    assert max(combs) < 6  # 20 with combs


@pytest.mark.parametrize("transfer", [tone_map.HLG, tone_map.PQ])
def test_hdr_video_is_read_as_sdr(tmp_path, transfer):
    white = 0.75 if transfer == tone_map.HLG else 0.58  # 203 nits, BT.2408's white
    pixels = np.full((32, 48, 3), round(white * 65_535), np.uint16)
    frame = av.VideoFrame.from_ndarray(pixels, "rgb48le").reformat(
        format="yuv420p10le", src_colorspace=9, dst_colorspace=9, src_color_range=2, dst_color_range=1
    )
    path = write_frames(tmp_path / "x.mov", [frame] * 3, "libx264", colour=video.Colour(1, 9, 9, transfer))
    info = video.probe(path)
    assert info.colour == video.Colour()
    assert any("tone-mapped" in note for note in info.notes)
    assert 205 < next(video.read_frames(info)).mean() < 240


def test_tone_mapping_keeps_grey_and_order_and_ends_at_white():
    for transfer in (tone_map.HLG, tone_map.PQ):
        steps = np.linspace(0, 1, 64)
        mapped = tone_map.to_sdr(np.repeat(steps[:, None], 3, axis=1), transfer)
        assert np.ptp(mapped, axis=1).max() < 0.01
        assert (np.diff(mapped[:, 1]) > -1e-6).all()
        assert mapped[0, 1] < 0.02 and mapped[-1, 1] > 0.98


# Images ---------------------------------------------------------------------------------------------------------------


def wide_gamut_profile():
    """Return an ICC profile whose red is BT.2020's: an sRGB profile with other primaries, matrix-shaper, as bytes."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    tags = {bytes(data[132 + 12 * n :][:4]): int.from_bytes(data[136 + 12 * n :][:4], "big") for n in range(count)}
    for name, xyz in {b"rXYZ": (0.6735, 0.2790, -0.0019), b"gXYZ": (0.1657, 0.6753, 0.0300),
                      b"bXYZ": (0.1251, 0.0456, 0.7968)}.items():  # fmt: skip
        data[tags[name] + 8 : tags[name] + 20] = b"".join(
            round(v * 65_536).to_bytes(4, "big", signed=True) for v in xyz
        )
    at = tags[b"desc"]
    data[at : at + 200] = data[at : at + 200].replace("sRGB".encode("utf-16-be"), "wide".encode("utf-16-be"))
    return bytes(data)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_photo_with_a_colour_profile_is_converted_to_srgb(tmp_path, suffix):
    image = Image.new("RGB", (32, 32), (180, 90, 80))
    image.save(tmp_path / f"x{suffix}", icc_profile=wide_gamut_profile(), quality=95)
    _, green, red = read_image(tmp_path / f"x{suffix}")[16, 16].astype(int)
    assert red > 190 and green < 88  # more saturated than its numbers look without the profile
    image.save(tmp_path / f"y{suffix}", quality=95)
    assert abs(read_image(tmp_path / f"y{suffix}")[16, 16].astype(int) - (80, 90, 180)).max() <= 3


def test_a_damaged_colour_profile_is_ignored(tmp_path):
    Image.new("RGB", (32, 32), (180, 90, 80)).save(tmp_path / "x.png", icc_profile=b"no profile" * 20)
    assert (read_image(tmp_path / "x.png") == (80, 90, 180)).all()


def test_a_transparent_photo_with_a_colour_profile_lies_on_white(tmp_path):
    image = Image.new("RGBA", (32, 32), (180, 90, 80, 255))
    image.paste((0, 0, 0, 0), (16, 0, 32, 32))
    image.save(tmp_path / "x.png", icc_profile=wide_gamut_profile())
    read = read_image(tmp_path / "x.png")
    assert (read[:, 16:] == 255).all() and read[0, 0, 2] > 190


def test_an_image_of_absurd_size_is_refused_before_it_is_decoded(tmp_path):
    data = bytearray(cv2.imencode(".bmp", quadrants())[1].tobytes())
    data[18:26] = (60_000).to_bytes(4, "little") * 2
    (tmp_path / "x.bmp").write_bytes(data)
    with pytest.raises(UserError, match="over 110 megapixels"):
        read_image(tmp_path / "x.bmp")


def test_multi_picture_phone_photo_is_a_still_image(tmp_path):
    first, second = Image.new("RGB", (64, 48), (200, 0, 0)), Image.new("RGB", (32, 24))
    first.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[second])
    assert read_image(tmp_path / "x.jpg").shape == (48, 64, 3)


def test_an_icon_is_a_still_image(tmp_path):
    Image.new("RGB", (64, 64), (200, 0, 0)).save(tmp_path / "x.ico", sizes=[(16, 16), (64, 64)])
    assert read_image(tmp_path / "x.ico").shape == (64, 64, 3)


@pytest.mark.parametrize("suffix", [".pcx", ".tga"])
def test_an_image_that_only_ffmpeg_reads_has_the_usual_frame_rate(tmp_path, suffix):
    Image.new("RGB", (64, 48), (200, 0, 0)).save(tmp_path / f"x{suffix}")
    info = video.probe(tmp_path / f"x{suffix}")
    assert (info.fps, info.num_frames) == (25, 1)


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["https://example.org/speech.wav", "rtsp://camera/1", "s3://bucket/x.mp4"])
@pytest.mark.parametrize("read", [audio.open_audio, video.probe, read_image])
def test_an_address_is_named_as_one(name, read):
    with pytest.raises(UserError, match="is an address, not a file; download it first") as raised:
        read(name)
    assert name in str(raised.value)


@pytest.mark.parametrize("read", [audio.open_audio, video.probe, read_image])
def test_a_pipe_is_named_as_one(tmp_path, read):
    os.mkfifo(tmp_path / "x.wav")
    with pytest.raises(UserError, match="is a pipe, which can be read only once; save it to a file first"):
        read(tmp_path / "x.wav")


def test_a_playlist_opens_no_connection(tmp_path):
    (tmp_path / "x.m3u8").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(UserError):
        video.probe(tmp_path / "x.m3u8")


def test_a_wav_whose_header_claims_no_length_is_read(tmp_path):
    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((tone() * 32_767).astype("<i2").tobytes())
    data = bytearray((tmp_path / "x.wav").read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"  # as a program writes that pipes it
    (tmp_path / "x.wav").write_bytes(data)
    assert abs(len(audio.load_wav(tmp_path / "x.wav")) - 8_000) <= 1


@pytest.mark.parametrize("read", [audio.open_audio, video.probe, read_image])
def test_the_standard_input_is_named_as_one(read):
    with pytest.raises(UserError, match=r"- is the standard input, .*; save it to a file first"):
        read("-")
