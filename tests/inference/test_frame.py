"""Frames in planes: what is not pasted reaches the encoder as the decoder gave it."""

import av
import cv2
import numpy as np
import pytest
from helpers.runners import FunctionRunner
from helpers.sounds import write_wav

from lipgan.inference import frame_cache
from lipgan.inference.frame import Frame, to_planes
from lipgan.inference.frame_cache import FrameCache
from lipgan.inference.options import LipsyncOptions
from lipgan.inference.pipeline import _generate
from lipgan.inference.preparation import load_audio, prepare
from lipgan.inference.source import open_source
from lipgan.media import video

COLOUR = video.Colour().settled(720)


@pytest.fixture
def planes(astronaut):
    return to_planes(astronaut, COLOUR)


def white(faces, audio):
    """A generator whose image cannot be mistaken for the source's."""
    return np.ones((*faces.shape[:3], 3), np.float32)


def test_patch_changes_only_the_planes_of_its_pixels(planes):
    frame, rows, columns = Frame(COLOUR, planes=planes), slice(40, 120), slice(60, 160)
    pixels = frame.region(rows, columns).copy()
    pixels[21:40, 31:60] = (40, 200, 90)
    changed = frame.patched(rows, columns, pixels).planes() != planes
    luma, chroma = changed[:256], changed[256:].reshape(2, 128, 128)
    assert luma[61:80, 91:120].mean() > 0.9 and chroma[:, 31:40, 46:60].mean() > 0.9
    luma[60:80, 90:120] = chroma[:, 30:40, 45:60] = False
    assert not luma.any() and not chroma.any()


def test_patched_frame_shows_the_patch_exactly_in_bgr(planes):
    frame, rows, columns = Frame(COLOUR, planes=planes), slice(40, 120), slice(60, 160)
    pixels = np.full((80, 100, 3), 77, np.uint8)
    image = frame.patched(rows, columns, pixels).bgr()
    assert (image[rows, columns] == 77).all()
    image[rows, columns] = frame.bgr()[rows, columns]
    np.testing.assert_array_equal(image, frame.bgr())


def test_region_is_that_of_the_whole_frame(planes):
    frame, rows, columns = Frame(COLOUR, planes=planes), slice(40, 120), slice(60, 160)
    region, whole = frame.region(rows, columns), frame.bgr()[rows, columns]
    np.testing.assert_array_equal(region[4:-4, 4:-4], whole[4:-4, 4:-4])


def test_patched_image_has_the_planes_of_the_pasted_image(astronaut):
    frame = Frame(COLOUR, image=astronaut)
    pixels = cv2.GaussianBlur(astronaut[50:150, 60:170], (0, 0), 5)
    pixels[[0, -1]], pixels[:, [0, -1]] = astronaut[50:150, 60:170][[0, -1]], astronaut[50:150, 60:170][:, [0, -1]]
    patched = frame.patched(slice(50, 150), slice(60, 170), pixels)
    difference = np.abs(patched.planes().astype(int) - to_planes(patched.bgr(), COLOUR))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.001


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "yuv422p10le", "yuv444p", "nv12"])
def test_planes_outside_of_the_mask_are_those_of_the_decoder(tmp_path, astronaut, pixel_format):
    codec = {"yuv422p10le": "ffv1", "yuvj420p": "mjpeg", "nv12": "rawvideo"}.get(pixel_format, "libx264")
    with av.open(str(tmp_path / "face.mkv"), "w") as container:
        stream = container.add_stream(codec, 25)
        stream.width, stream.height, stream.pix_fmt = 256, 256, pixel_format
        for shift in range(3):
            frame = av.VideoFrame.from_ndarray(np.roll(astronaut, shift, axis=1).copy(), "bgr24")
            container.mux(stream.encode(frame.reformat(format=pixel_format)))
        container.mux(stream.encode(None))
    options = LipsyncOptions()
    source = open_source(tmp_path / "face.mkv", options)
    audio = load_audio(write_wav(tmp_path / "a.wav", 5 / 25), options)
    clip = prepare(source, audio, options, boxes=(50, 150, 60, 160))
    decoded = list(video.read_frames(tmp_path / "face.mkv", planes=True))
    assert decoded[0].shape == (384, 256)
    for frame, index in zip(sent_to_encoder(clip, options), [0, 1, 2, 1, 0], strict=True):
        changed = frame != decoded[index]
        assert changed[110:140, 90:130].mean() > 0.9
        changed[98:152, 58:162] = False
        changed[256:].reshape(2, 128, 128)[:, 49:76, 29:81] = False
        assert not changed.any()


def sent_to_encoder(clip, options):
    """Yield the planes of the frames of a result."""
    for frame, _, _ in _generate(clip, FunctionRunner(white), options):
        yield frame.planes()


@pytest.mark.parametrize("limit", [0, 100_000, 2**30])
def test_frame_cache_is_lossless_in_memory_and_on_disk(planes, astronaut, monkeypatch, limit):
    monkeypatch.setattr(frame_cache, "MEMORY_BYTES", limit)
    for name, arrays in (("planes", [planes, planes[::-1].copy()]), ("image", [astronaut, astronaut[::-1].copy()])):
        with FrameCache() as cache:
            for number, array in enumerate(arrays):
                cache.put(number, Frame(COLOUR, **{name: array}))
            for number in (1, 0, 1):
                np.testing.assert_array_equal(cache.get(number).data, arrays[number])
