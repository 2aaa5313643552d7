"""Preparation: where the face is."""

import types

import cv2
import numpy as np
import pytest
from helpers.sounds import write_wav

from lipgan.faces.detector import FaceDetector
from lipgan.faces.landmarks import FACING, LIPS
from lipgan.faces.tracker import Track
from lipgan.inference import preparation
from lipgan.inference.options import LipsyncOptions
from lipgan.inference.source import open_source
from lipgan.media import video
from lipgan.utils.cli import UserError, collected_notes


class LongSightedDetector(FaceDetector):
    """Sees a face only in its search for small ones, as the real one does a face of 60 pixels in 4K."""

    def detect_whole(self, frame, **options):
        return super().detect_whole(frame, **options) if self.search_small else np.zeros((0, 4))

    def detect_small(self, frame):
        return super().detect_whole(frame)


def test_video_without_large_faces_is_searched_for_small_ones(tmp_path, astronaut, monkeypatch, capsys):
    detector = LongSightedDetector("hog")
    monkeypatch.setattr(preparation, "_load_detector", lambda *_: detector)
    with video.VideoWriter(tmp_path / "x.mp4", 256, 256, 25) as writer:
        for _ in range(4):
            writer.write(astronaut)
    options = LipsyncOptions(detector="hog")
    audio = preparation.load_audio(write_wav(tmp_path / "a.wav", 4 / 25), options)
    clip = preparation.prepare(open_source(tmp_path / "x.mp4", options), audio, options)
    assert clip.track.found.all()
    assert "small ones are searched for" in capsys.readouterr().err
    assert not detector.search_small  # the next video is searched fast again


@pytest.mark.parametrize(
    ("degrees", "message"),
    [
        (0, None),
        (90, "is not upright, so its mouth will be wrong; rotate it by 90 degrees counterclockwise first"),
        (180, "no upright face found in the image .*; rotate it by 180 degrees first"),
        (270, "is not upright, so its mouth will be wrong; rotate it by 90 degrees clockwise first"),
    ],
)
def test_rotated_face_is_reported_with_the_rotation_to_apply(tmp_path, astronaut, degrees, message):
    if degrees == 180:
        astronaut = cv2.resize(astronaut, (128, 128), interpolation=cv2.INTER_AREA)  # found when it is enlarged only
    cv2.imwrite(str(tmp_path / "x.png"), np.rot90(astronaut, -degrees // 90))
    options = LipsyncOptions(detector="cnn")
    audio = preparation.load_audio(write_wav(tmp_path / "a.wav", 1 / 25), options)
    source = open_source(tmp_path / "x.png", options)
    if degrees == 180:  # the detector does not see it
        with pytest.raises(UserError, match=message):
            preparation.prepare(source, audio, options)
        return
    with collected_notes() as notes:
        preparation.prepare(source, audio, options)
    assert [note for note in notes if "upright" in note] == (
        [f"the face of {source.path} {message}"] if message else []
    )


@pytest.mark.parametrize("fps", [25, 50])
def test_deviation_of_the_persons_own_mouth_is_measured_in_time(fps):
    """A mouth that opens and shuts five times a second; covered frames, in which it is wide open, do not count."""
    count = 4 * fps
    opening = 0.02 * (1 + np.sin(np.arange(count) / fps * 5 * 2 * np.pi))
    covered = np.arange(count) // fps == 3
    opening[covered] = 0.3
    rng = np.random.default_rng(0)
    points = np.tile(rng.random((68, 2)), (count, 1, 1))
    for up, low in zip(*FACING, strict=True):
        points[:, LIPS.start + low] = points[:, LIPS.start + up] + np.stack([0 * opening, opening], axis=1)
    boxes, found = np.tile([0, 100, 0, 100], (count, 1)), np.ones(count, bool)
    track = Track(boxes, found, np.float32(100 * points - 0.5), np.zeros(count, int), found)
    source = types.SimpleNamespace(fps=fps, is_still=False)
    assert preparation._own_deviation(source, track, covered) == pytest.approx(0.02 / np.sqrt(2), rel=0.05)
    assert preparation._own_deviation(types.SimpleNamespace(fps=fps, is_still=True), track, covered) is None
    assert preparation._own_deviation(source, track, np.ones(count, bool)) is None
