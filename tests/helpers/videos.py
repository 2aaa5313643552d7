"""Small videos of a moving face, and tasks that worker processes import."""

import os
import pathlib

import cv2
from helpers.sounds import write_wav

from lipgan.media import video

ROOT = pathlib.Path(__file__).parents[2]


def face_frames(num_frames):
    """Yield frames of a face that moves to the left, each with its number as the grey level of a corner."""
    photo = cv2.imread(str(ROOT / "examples" / "astronaut.jpg"))
    for frame in range(num_frames):
        image = photo[:240, 110 + frame // 2 : 350 + frame // 2].copy()
        image[:20, :20] = 4 * frame
        yield image


def write_video(path, frames, fps=25, audio=True):
    """Write a video of the frames, with a tone of the same length. Returns its path."""
    frames = list(frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = write_wav(path.with_suffix(".tone.wav"), len(frames) / fps) if audio else None
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
    """Run a worker task: 5 always kills its process, 9 only the first time, 3 returns "bad"."""
    if number == 5 or (number == 9 and not (pathlib.Path(folder) / "9").exists()):
        (pathlib.Path(folder) / str(number)).touch()
        os.kill(os.getpid(), 9)
    return "bad" if number == 3 else number
