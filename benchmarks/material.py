"""Inputs of the inference benchmarks: made from the example photo and speech, or from a real clip."""

import contextlib
import itertools
import pathlib
import wave

import av
import cv2
import numpy as np

from lipgan.media import video

ROOT = pathlib.Path(__file__).parents[1]
PHOTO, SPEECH = ROOT / "examples" / "astronaut.jpg", ROOT / "examples" / "speech.wav"


def speech(path, seconds):
    """Write the example speech, repeated to a length, as 16 kHz mono. Returns the path."""
    with wave.open(str(SPEECH)) as file:
        settings, once = file.getparams(), file.readframes(file.getnframes())
    length, bytes_each = round(seconds * settings.framerate), settings.nchannels * settings.sampwidth
    with wave.open(str(path), "wb") as file:
        file.setparams(settings)
        while length > 0:
            file.writeframes(once[: length * bytes_each])
            length -= len(once) // bytes_each
    return path


def photo_in_motion(path, seconds, width, height, fps=25):
    """Write a video of the example photo moving and scaling a little; the face has 0.4 of the height."""
    photo = cv2.imread(str(PHOTO))
    with video.VideoWriter(path, width, height, fps) as writer:
        for n in range(round(seconds * fps)):
            angle = 2 * np.pi * n / (10 * fps)  # comes back after 10 s, so that it can be looped
            scale = height / 280 * (1 + 0.05 * np.sin(angle))
            x, y = 224 + 12 * np.sin(2 * angle), 130 + 6 * np.cos(angle)  # the photo's pixel in the middle of the frame
            to = np.array([[scale, 0, width / 2 - scale * x], [0, scale, height / 2 - scale * y]])
            how = {"flags": cv2.INTER_CUBIC, "borderMode": cv2.BORDER_REFLECT}
            writer.write(cv2.warpAffine(photo, to, (width, height), **how))
    return path


def moving(path, face, seconds, width, height):
    """Write a video: the first seconds of the real clip `face`, or the moving photo if that is None."""
    if face:
        return clip_in_size(path, face, seconds, width, height)
    return photo_in_motion(path, seconds, width, height)


@contextlib.contextmanager
def table(out):
    """Yield a function that prints a line at once; at the end all lines are appended to the file `out` (or None)."""
    lines = []

    def write_line(line):
        lines.append(line)
        print(line, flush=True)

    yield write_line
    if out:
        with out.open("a") as file:
            file.write("\n".join(lines) + "\n")


def clip_in_size(path, source, seconds, width, height):
    """Write the first seconds of a real clip, its frames cropped to the aspect ratio and scaled."""
    info = video.probe(source)
    with video.VideoWriter(path, width, height, info.fps) as writer:
        for frame in itertools.islice(video.read_frames(source), round(seconds * info.fps)):
            rows, columns = frame.shape[:2]
            rows, columns = min(rows, round(columns * height / width)), min(columns, round(rows * width / height))
            top, left = (frame.shape[0] - rows) // 2, (frame.shape[1] - columns) // 2
            writer.write(cv2.resize(frame[top : top + rows, left : left + columns], (width, height)))
    return path


def looped(path, source, seconds):
    """Write a video repeated to a length, by copying its packets, which takes no time."""
    with av.open(str(path), "w") as target:
        stream, start, last = None, 0, 0
        while True:
            with av.open(str(source)) as container:
                original = container.streams.video[0]
                if stream is None:
                    stream = target.add_stream_from_template(original)
                for packet in container.demux(original):
                    if packet.dts is None:
                        continue
                    last = max(last, packet.pts + packet.duration)
                    if (start + packet.pts) * original.time_base >= seconds:
                        continue
                    packet.pts, packet.dts, packet.stream = packet.pts + start, packet.dts + start, stream
                    target.mux(packet)
                start += last
                if start * original.time_base >= seconds:
                    return path
