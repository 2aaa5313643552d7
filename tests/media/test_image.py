"""Still images of any kind are read upright, in eight bits, identified by their content, or a line says why not."""

import os
import pathlib
import struct
import zlib
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from helpers.quadrants import corners, quadrants
from helpers.sounds import write_wav
from PIL import Image

from lipgan.media import audio, video
from lipgan.media.image import read_image
from lipgan.utils.cli import UserError

EXIF_6 = b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", 0x0112, 3, 1, 6, 0, 0)  # turn it clockwise


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_images_are_identified_by_their_content(tmp_path, suffix):
    cv2.imwrite(str(tmp_path / f"x{suffix}"), quadrants())
    (tmp_path / f"x{suffix}").rename(tmp_path / "x.mp4")
    image = read_image(tmp_path / "x.mp4")
    assert (image.shape, image.dtype) == ((48, 64, 3), np.uint8)
    assert np.abs(corners(image) - corners(quadrants())).max() < 8


def test_a_photo_is_rotated_as_its_camera_says(tmp_path):
    data = cv2.imencode(".jpg", quadrants())[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", 0x0112, 3, 1, 6, 0, 0)  # orientation 6
    (tmp_path / "x.jpg").write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    image = read_image(tmp_path / "x.jpg")
    expected = np.rot90(quadrants(), -1)
    assert image.shape == expected.shape
    assert np.abs(corners(image) - corners(expected)).max() < 8


def test_grey_deep_and_transparent_images_become_bgr_bytes(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), quadrants()[:, :, 0])
    cv2.imwrite(str(tmp_path / "deep.png"), quadrants().astype(np.uint16) * 257)
    alpha = np.where(np.arange(64) < 32, 255, 0).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "clear.png"), np.dstack([quadrants(), np.tile(alpha, (48, 1))]))
    assert (read_image(tmp_path / "grey.png") == quadrants()[:, :, :1]).all()
    assert (read_image(tmp_path / "deep.png") == quadrants()).all()
    clear = read_image(tmp_path / "clear.png")
    assert (clear[:, :32] == quadrants()[:, :32]).all()
    assert (clear[:, 32:] == 255).all()


@pytest.mark.parametrize("num_frames", [1, 3])
def test_an_animated_gif_is_a_video_and_a_gif_of_one_frame_is_an_image(tmp_path, num_frames):
    with av.open(str(tmp_path / "x.gif"), "w") as container:
        stream = container.add_stream("gif", 10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "rgb8"
        for k in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 80 * k, np.uint8), "bgr24").reformat(format="rgb8")
            frame.pts, frame.time_base = k, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    image = read_image(tmp_path / "x.gif")
    assert (image is None) == (num_frames > 1)
    assert sum(1 for _ in video.read_frames(tmp_path / "x.gif")) == num_frames
    assert image is None or image.shape == (32, 48, 3)


def test_alpha_is_rotated_as_the_camera_says(tmp_path):
    alpha = np.full((48, 48), 255, np.uint8)
    alpha[:24, :24] = 0
    data = cv2.imencode(".png", np.dstack([quadrants(48), alpha]))[1].tobytes()
    chunk = b"eXIf" + EXIF_6
    chunk = struct.pack(">I", len(EXIF_6)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "x.png").write_bytes(data[:33] + chunk + data[33:])  # behind the header
    expected = np.rot90(np.where(alpha[:, :, None] == 0, 255, quadrants(48)), -1)
    assert (read_image(tmp_path / "x.png") == expected).all()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("unit.tiff", quadrants().astype(np.float32) / 255),
        ("bytes.tiff", quadrants().astype(np.float32)),
        ("grey.tiff", quadrants()[:, :, 0].astype(np.float32) / 255),
        ("long.tiff", quadrants()[:, :, 0].astype(np.int32) * 1000),
        ("alpha.tiff", np.dstack([quadrants(), np.full((48, 64), 255)]).astype(np.float32) / 255),
        ("unit.pfm", quadrants().astype(np.float32) / 255),
        ("deep.tiff", quadrants().astype(np.uint16) * 257),
    ],
)
def test_float_and_16_bit_images_become_bytes(tmp_path, name, values):
    cv2.imwrite(str(tmp_path / name), values)
    expected = quadrants() if values.ndim == 3 else quadrants()[:, :, :1]
    if name.startswith("long"):
        expected = np.round(expected * (255 / 200))
    image = read_image(tmp_path / name)
    assert image.shape == (48, 64, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - expected).max() <= 1


def test_a_float_image_up_to_255_on_black_is_not_overexposed(tmp_path):
    image = np.zeros((480, 640, 3), np.float32)
    image[100:260, 100:400] = 156
    cv2.imwrite(str(tmp_path / "x.tiff"), image)
    np.testing.assert_array_equal(read_image(tmp_path / "x.tiff"), image.astype(np.uint8))


@pytest.mark.parametrize("mode", ["CMYK", "L", "LA", "P", "1"])
def test_images_of_other_colour_modes_become_bgr(tmp_path, mode):
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.fromarray(quadrants()[:, :, ::-1]).convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (48, 64, 3)
    assert np.abs(corners(image)[1, 1] - 200).max() < (60 if mode == "1" else 12)


def animation(path, durations_ms):
    """Write an animation whose frame k is 40 (k + 1) grey levels bright."""
    frames = [np.full((32, 48, 3), 40 * (k + 1), np.uint8) for k in range(len(durations_ms))]
    made = cv2.Animation()
    made.frames, made.durations = frames, np.array(durations_ms, np.int32)
    assert cv2.imwriteanimation(str(path), made)


def test_an_animated_webp_is_a_video_with_its_own_times(tmp_path):
    path = tmp_path / "x.jpg"  # identified by its content
    animation(tmp_path / "x.webp", [80, 80, 160, 80])
    (tmp_path / "x.webp").rename(path)
    assert read_image(path) is None
    path = str(path)
    info = video.probe(path)
    assert (info.height, info.width, info.has_audio, info.duration_s) == (32, 48, False, 0.4)
    levels = [frame.mean() for frame in video.read_frames(path, Fraction(25, 2))]
    np.testing.assert_allclose(levels, [40, 80, 120, 120, 160], atol=3)
    assert sum(1 for _ in video.read_frames(path)) == info.num_frames


@pytest.mark.parametrize("suffix", [".webp", ".png", ".gif"])
def test_an_animation_lies_on_white_where_it_is_transparent(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    frames = [np.full((32, 48, 4), (*[80 * (k + 1)] * 3, 255), np.uint8) for k in range(3)]
    for k, frame in enumerate(frames):
        frame[:, 24 + 8 * k :, 3] = 0
    first, *others = map(Image.fromarray, frames)
    first.save(path, save_all=True, append_images=others, duration=100, disposal=2)
    assert read_image(path) is None
    frames = list(video.read_frames(path))
    assert [frame[:, :20].mean().round() // 10 for frame in frames] == [8, 16, 24]
    assert [frame[16, 24:].min(axis=1).tolist().count(255) for frame in frames] == [24, 16, 8]


def test_a_damaged_animation_raises_user_error(tmp_path):
    animation(tmp_path / "x.webp", [100] * 4)
    data = (tmp_path / "x.webp").read_bytes()
    (tmp_path / "x.webp").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(UserError, match="download it again"):
        read_image(tmp_path / "x.webp")
    with pytest.raises(UserError, match="no frame of"):
        list(video.read_frames(tmp_path / "x.webp"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"%PDF-1.7\n" + bytes(300), "of the kind PDF"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "of the kind SVG"),
        (b"<svg/>", "of the kind SVG"),
        (b"\xff\x0a" + bytes(300), "of the kind JPEG XL"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(300), "of the kind HEIC"),
        (cv2.imencode(".jpg", quadrants())[1].tobytes()[:600], "cannot be decoded"),
        (cv2.imencode(".png", quadrants())[1].tobytes()[:100], "cannot be decoded"),
        (b"", "is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unreadable_images_raise_user_error_and_print_nothing(tmp_path, capfd, data, words):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(UserError, match=words) as raised:
        read_image(tmp_path / "x")
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_audio_and_text_are_no_image(tmp_path):
    (tmp_path / "text.txt").write_text("this is a text\n" * 50)
    assert read_image(tmp_path / "text.txt") is None
    assert read_image(write_wav(tmp_path / "sound.wav", 0.1)) is None


@pytest.mark.parametrize(
    "name",
    ["a b", 'quo"te', "-dash", "üñí漢", "new\nline", "%d", "%03d", "http:x", "concat:a", "file:x", "pipe:0", "a*[1]?{}",
     os.fsdecode(b"caf\xe9")],
    ids=ascii,
)  # fmt: skip
def test_a_name_is_a_file_whatever_is_in_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("x.png", quadrants())
    photo = pathlib.Path("x.png").rename(name)
    assert read_image(photo).shape == (48, 64, 3)
    speech = write_wav(pathlib.Path("x.wav"), 0.1).rename(f"{name}.wav")
    assert len(audio.load_wav(speech)) == 1600
    animation("x.png", [100, 100])
    animated = pathlib.Path("x.png").rename(f"{name}.gif")
    assert read_image(animated) is None
    assert video.probe(animated).num_frames == 2
