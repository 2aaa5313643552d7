"""Preparation: where the face is."""

import numpy as np
from helpers.sounds import write_wav

from lipgan.faces.detector import FaceDetector
from lipgan.inference import preparation
from lipgan.inference.options import LipsyncOptions
from lipgan.inference.source import open_source
from lipgan.media import video


class LongSightedDetector(FaceDetector):
    """Sees a face only in its search for small ones, as the real one does a face of 60 pixels in 4K."""

    def detect_whole(self, frame, **options):
        return super().detect_whole(frame, **options) if self.search_small else np.zeros((0, 4))

    def detect_small(self, frame):
        return super().detect_whole(frame)


def test_a_video_without_a_face_at_once_is_searched_for_small_ones(tmp_path, astronaut, monkeypatch, capsys):
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
