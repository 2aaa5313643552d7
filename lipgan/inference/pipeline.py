"""A face and a sound become a video in which that face says that sound.

Reading, generator, pasting and encoding work at the same time, each a few frames ahead of the next. Of frames, only
those few are in memory; of an hour of sound 92 MB (its mel spectrogram), of an hour of video 50 MB (landmarks, boxes).
"""

import collections
import concurrent.futures
import contextlib
import itertools
import pathlib
import time
import typing
from fractions import Fraction

import cv2
import numpy as np
import tqdm

from audio_hparams import hparams
from lipgan.faces import crop
from lipgan.faces.detector import LipLandmarks
from lipgan.faces.landmarks import LIPS, NUM_LIPS
from lipgan.inference.blend import paste_back
from lipgan.inference.frame_cache import FrameStore
from lipgan.inference.silence_gate import rest
from lipgan.inference.source import prepare
from lipgan.media import video
from lipgan.media.audio import mel_window
from lipgan.utils.cli import UserError
from lipgan.utils.files import atomic_write
from lipgan.utils.parallel import prefetch, timed

PREVIEW_MOMENTS, PREVIEW_WIDTH = 8, 320


class Result(typing.NamedTuple):
    """What was made. seconds: by phase. "sound" and "faces" overlap, "write" and its parts, "generate" with itself."""

    path: pathlib.Path
    num_frames: int
    num_without_face: int
    seconds: dict


class _Batch(typing.NamedTuple):
    """Neighbouring frames, and what the generator is fed for those of them that have a face."""

    frames: list  # of (H, W, 3) BGR uint8
    boxes: list  # of (4,) int32, or None for a frame without a face
    points: list  # of (68, 2) float32, or None where no landmarks are known
    tilts: list  # degrees by which each frame's crop was turned
    faces: np.ndarray  # (B, S, S, 6) float32; rows past the faces are zero
    lips: np.ndarray  # (B, 40) float32: those of the faces' references, as `lips.LipLandmarks` gives them, or zeros
    mels: np.ndarray  # (B, 80, 27, 1) float32


def lipsync(
    face, audio, out, generator, *, img_size=96, batch_size=8, sync_offset_ms=0, progress=False, made=None, **source
):
    """Write an mp4 to `out` in which the face (picture or video) says the audio (sound file, or a video's sound).

    generator: a keras.Model of `generator.build_generator`, an `inference.Speaker` (which is one made ready), or any
    function of (faces (B, S, S, 6) float32 in [0, 1], mels (B, 80, 27, 1) float32) that returns (B, S, S, 3) in [0, 1];
    S is the model's own, or else `img_size`; a Speaker's batch_size is its own, too, and its `still` that of the face.
    One that has a true `wants_lips` is called with the references' lips, too: see `inference.Speaker`.
    sync_offset_ms: see `lipsync_frames`. progress: show bars on stderr. source: the further arguments of `prepare`.
    made: those of the result: silence_gate (default True), see `lipsync_frames`; crf, lossless and comment, see
    `video.VideoWriter`; preview, the path of a PNG of 8 moments; side_by_side, the source to the left of the result.
    Returns a Result. Raises UserError. A file that lies at `out` is replaced, by a whole one or not at all.
    """
    clip = prepare(face, audio, progress=progress, **source)
    options = {"img_size": img_size, "batch_size": batch_size, "sync_offset_ms": sync_offset_ms}
    return write(clip, out, generator, progress=progress, **options, **(made or {}))


# With the generator ---------------------------------------------------------------------------------------------------


def write(
    clip,
    out,
    generator,
    *,
    img_size=96,
    batch_size=8,
    sync_offset_ms=0,
    silence_gate=True,
    crf=16,
    lossless=False,
    comment=None,
    preview=None,
    side_by_side=False,
    progress=False,
) -> Result:
    """Make the video of a prepared clip; arguments and result as of `lipsync`."""
    out, seconds, shown = pathlib.Path(out), dict(clip.seconds), []
    height, width = clip.shape
    without_face = 0
    moments = np.linspace(0, clip.num_frames - 1, PREVIEW_MOMENTS).round().tolist() if preview else []
    target = {"audio": clip.audio, "max_s": clip.max_s, "colour": clip.colour}
    target |= {"crf": crf, "lossless": lossless, "comment": comment}
    width *= 1 + side_by_side
    with contextlib.ExitStack() as stack:
        stack.enter_context(timed(seconds, "write"))
        picture = stack.enter_context(atomic_write(pathlib.Path(preview))) if preview else None  # both appear, or none
        writer = stack.enter_context(video.VideoWriter(out, width, height, clip.fps, **target))
        options = {"img_size": img_size, "batch_size": batch_size, "sync_offset_ms": sync_offset_ms}
        options |= {"silence_gate": silence_gate, "folder": out.parent, "seconds": seconds}
        with contextlib.closing(_made_frames(clip, generator, **options)) as frames:
            bar = tqdm.tqdm(frames, "frames", clip.num_frames, disable=not progress, unit="frame")
            for number, (frame, has_face, source) in enumerate(bar):
                frame = np.hstack([source, frame]) if side_by_side else frame
                with timed(seconds, "encode"):
                    writer.write(frame)
                shown += [_thumbnail(frame)] * moments.count(number)
                without_face += not has_face
        if writer.num_frames < clip.num_frames:
            raise UserError(f"{clip.face} ended before its time when it was read again; is it still being written?")
        if preview:
            rows = [np.hstack(shown[i : i + PREVIEW_MOMENTS // 2]) for i in (0, PREVIEW_MOMENTS // 2)]
            picture.write_bytes(cv2.imencode(".png", np.vstack(rows))[1])
    return Result(out, clip.num_frames, without_face, seconds)


def _thumbnail(frame):
    height = max(1, round(PREVIEW_WIDTH * frame.shape[0] / frame.shape[1]))
    return cv2.resize(frame, (PREVIEW_WIDTH, height), interpolation=cv2.INTER_AREA)


def lipsync_frames(
    clip, generator, *, img_size=96, batch_size=8, sync_offset_ms=0, silence_gate=True, folder=None, seconds=None
):
    """Yield the clip's num_frames frames, as ((H, W, 3) BGR uint8, has_face). A frame without a face is the source's.

    sync_offset_ms: the middle of a frame's window of sound lies so much after the middle of the frame; weights that
    were trained on windows that are late by d need d. Too large a value makes the lips early, too small late.
    silence_gate: where the sound is silent for over 0.3 s the generator hears nothing at all (see `silence.rest`).
    folder: for the frames of a video that come again (default: the system's folder for temporary files).
    seconds: a dict to which the time at work is added, by phase. img_size, batch_size: see `lipsync`. Frames come out a
    batch at a time: a batch_size of 1 gives a video's first one soonest, larger ones more frames a second. With warp on
    two cores, AVX-512, some 50 ms pass from the call to the first with 1, then 10 to 16 ms a frame: RESULTS.md. (With
    a Speaker; a keras.Model is made into one first, which takes a second.)
    """
    options = {"img_size": img_size, "batch_size": batch_size, "sync_offset_ms": sync_offset_ms}
    options |= {"silence_gate": silence_gate, "folder": folder, "seconds": seconds}
    with contextlib.closing(_made_frames(clip, generator, **options)) as frames:
        for frame, has_face, _ in frames:
            yield frame, has_face


def _made_frames(
    clip, generator, *, img_size=96, batch_size=8, sync_offset_ms=0, silence_gate=True, folder=None, seconds=None
):
    """As `lipsync_frames`, with the source's frame beside each: (frame, has_face, source)."""
    seconds = {} if seconds is None else seconds
    if hasattr(generator, "predict_on_batch"):  # a keras.Model
        from lipgan.inference.runner import Speaker

        generator = Speaker(generator, clip.still is not None, batch_size)
    if hasattr(generator, "forget"):  # a Speaker
        if generator.still and clip.still is None:
            raise ValueError("this Speaker looks at one still picture, and the face moves; make one with still=False")
        img_size, batch_size = generator.img_size, generator.batch_size
        generator.forget()
    frames = _still_frames(clip) if clip.still is not None else _to_and_fro(clip, folder)
    find = LipLandmarks() if clip.points is None and getattr(generator, "wants_lips", False) else None
    batches = prefetch(_batches(clip, frames, img_size, batch_size, sync_offset_ms, silence_gate, find, seconds), 1)
    pasted = prefetch(_pasted(prefetch(_generated(batches, generator, seconds), 1), seconds), batch_size)
    with contextlib.closing(pasted):
        yield from pasted


def _still_frames(clip):
    return ((0, clip.still) for _ in range(clip.num_frames))


def _to_and_fro(clip, folder):
    """Yield (index, frame) of the video, forwards, backwards from its end, forwards again, until the sound ends.

    The frames that will come again are kept on disk (see `FrameStore`), not in memory.
    """
    last = len(clip.found) - 1
    # The earliest frame that comes again; where the video is as long as the sound, none does.
    first_again = max(0, 2 * last + 1 - clip.num_frames)
    with FrameStore(folder) as store:
        for index, frame in enumerate(clip.footage.frames(last + 1)):
            yield index, frame
            if index >= first_again and clip.num_frames > last + 1:
                store.put(index, frame)
        for k in range(last + 1, clip.num_frames):
            step = k % (2 * last) if last else 0
            index = min(step, 2 * last - step)
            yield index, store.get(index)


def _batches(clip, frames, img_size, batch_size, sync_offset_ms, silence_gate, find, seconds):
    """Group (index, frame) into _Batches, all of the same number of rows: a generator is compiled for one size.

    find: a `lips.LipLandmarks` where the lips are wanted and no landmarks are known, else None.
    """
    late = Fraction(sync_offset_ms) / 1000 * clip.fps  # in frames
    at_rest = rest(clip.mel, clip.num_frames, clip.fps, late) if silence_gate else np.zeros(clip.num_frames, "float32")
    six, nothing = None, np.float32(-hparams.max_abs_value)
    for start in range(0, clip.num_frames, batch_size):
        with timed(seconds, "decode"):
            group = list(itertools.islice(frames, batch_size))
        with timed(seconds, "crop"):
            found = [(row, index) for row, (index, _) in enumerate(group) if clip.found[index]]
            tilts = [clip.excess_roll(index) if clip.found[index] else 0.0 for index, _ in group]
            mels = np.zeros((batch_size, hparams.num_mels, hparams.mel_window, 1), np.float32)
            for n, (row, _) in enumerate(found):
                window = mel_window(clip.mel, start + row + late, clip.fps)
                mels[n, ..., 0] = window + at_rest[start + row] * (nothing - window)
            if six is None or clip.still is None:  # a still picture is cropped once
                six = np.zeros((batch_size, img_size, img_size, 6), np.float32)
                lips = np.zeros((batch_size, 2 * NUM_LIPS), np.float32)
                for n, (row, index) in enumerate(found):
                    shown = own = crop.rotate(crop.crop(group[row][1], clip.boxes[index], img_size), tilts[row])
                    points = None
                    if clip.points is not None:
                        points = crop.rotate_points(clip.landmarks(index), tilts[row])
                    if clip.references is not None:
                        shown, points = clip.references.crop(index, own, points)
                    six[n] = crop.generator_input(shown, own)
                    if points is not None:
                        lips[n] = points[LIPS].ravel()
                    elif find:
                        lips[n] = find(shown).ravel()
        boxes = [clip.boxes[index] if clip.found[index] else None for index, _ in group]
        points = [None if clip.points is None else clip.points[index] for index, _ in group]
        yield _Batch([frame for _, frame in group], boxes, points, tilts, six, lips, mels)


def _generated(batches, generate, seconds):
    """Yield (batch, generated crops (n, S, S, 3) BGR uint8): one for each frame of the batch that has a face.

    As many batches are under way at a time as a Speaker says.
    """

    def work(batch):
        count, start = sum(box is not None for box in batch.boxes), time.perf_counter()
        lips = [batch.lips] if getattr(generate, "wants_lips", False) else []
        crops = generate(batch.faces, batch.mels, *lips)[:count] if count else ()
        crops = np.clip(np.asarray(crops, np.float32) * 255 + 0.5, 0, 255).astype(np.uint8)
        return batch, crops, time.perf_counter() - start

    at_once, under_way = getattr(generate, "at_once", 1), collections.deque()
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool, contextlib.closing(batches):
        for batch in itertools.chain(batches, [None] * at_once):
            if batch is not None:
                under_way.append(pool.submit(work, batch))
            if under_way and (batch is None or len(under_way) == at_once):
                batch, crops, taken = under_way.popleft().result()
                seconds["generate"] = seconds.get("generate", 0.0) + taken
                yield batch, crops


def _pasted(generated, seconds):
    """Yield (frame, has_face, source), the generated crops pasted into the frames that have a face."""
    with contextlib.closing(generated):
        for batch, crops in generated:
            crops = iter(crops)
            for source, box, points, tilt in zip(batch.frames, batch.boxes, batch.points, batch.tilts, strict=True):
                with timed(seconds, "paste"):
                    frame = source
                    if box is not None:
                        frame = paste_back(source, crop.rotate(next(crops), -tilt), box, points)
                yield frame, box is not None, source
