"""Small videos of a drifting face, and tasks that worker processes import."""

import os
import pathlib

import cv2
from helpers.sounds import write_wav

from lipgan.media import video

ROOT = pathlib.Path(__file__).parents[2]


def face_frames(num_frames):
    """A face that drifts through a small picture, one frame after the other, each with its number in grey levels."""
    photo = cv2.imread(str(ROOT / "examples" / "astronaut.jpg"))
    for frame in range(num_frames):
        picture = photo[:240, 110 + frame // 2 : 350 + frame // 2].copy()
        picture[:20, :20] = 4 * frame
        yield picture


def write_video(path, frames, fps=25, sound=True):
    """A video of the frames, with a tone of the same length."""
    frames = list(frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = write_wav(path.with_suffix(".tone.wav"), len(frames) / fps) if sound else None
    with video.VideoWriter(path, frames[0].shape[1], frames[0].shape[0], fps, audio=tone) as writer:
        for frame in frames:
            writer.write(frame)
    if tone:
        tone.unlink()
    return path


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def sometimes_deadly(number, folder):
    """A task for workers: 5 always kills its process, 9 only the first time, 3 is merely bad."""
    if number == 5 or (number == 9 and not (pathlib.Path(folder) / "9").exists()):
        (pathlib.Path(folder) / str(number)).touch()
        os.kill(os.getpid(), 9)
    return "bad" if number == 3 else number
