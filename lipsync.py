"""A face and a sound become a video in which that face says that sound.

Reading, generator, pasting and encoding work at the same time, each a few frames ahead of the next. So memory does not
grow with the video; with the sound it does, by 92 MB an hour (its mel spectrogram), 230 MB more while it is read.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import pathlib
import time
import typing
from fractions import Fraction

import cv2
import numpy as np
import tqdm

import faces
import video
from audio import load_wav, mel_window, melspectrogram
from audio_hparams import hparams
from box_cache import cache_path, load_track, save_track
from choice import FaceChoice
from errors import UserError, whole_file
from footage import Footage, open_footage, resized
from paste import paste_back
from pictures import read_picture
from reference import References, in_crop, read_references
from silence import rest
from stream import FrameStore, ahead, timed

STILL_FPS = 25  # frames a second of a result made from a still picture
BRIDGE = 5  # frames without a face that are taken to have one, between others that do
PREVIEW_MOMENTS, PREVIEW_WIDTH = 8, 320


@dataclasses.dataclass(frozen=True)
class Clip:
    """What is to be made, as far as it is known before a generator is needed. From `prepare`."""

    face: pathlib.Path
    audio: pathlib.Path
    max_s: float | None  # seconds of sound that are used; None: all
    still: np.ndarray | None  # (H, W, 3) BGR uint8, shown throughout; None where `face` is a moving picture
    footage: Footage | None  # of a moving picture
    colour: video.Colour | None  # of a video
    fps: Fraction
    num_frames: int  # of the result
    mel: np.ndarray  # (80, T) float32
    boxes: np.ndarray  # (N, 4) int32, one for each of the N frames of the source (1 of a still) that are used
    found: np.ndarray  # (N,) bool: frames that have a face
    points: np.ndarray | None  # (N, 68, 2) float32: dlib's landmarks of the face; None where boxes were given
    references: References | None  # None: each frame is its own
    seconds: dict  # spent so far, by phase

    @property
    def shape(self):
        """(height, width) of its frames."""
        info = self.footage and self.footage.info
        return (info.height, info.width) if info else self.still.shape[:2]

    def landmarks(self, index):
        """Those of the face in frame `index`, (68, 2) float32 in parts of its crop."""
        return in_crop(self.points[index], self.boxes[index])


class Result(typing.NamedTuple):
    """What was made. `seconds`: time at work by phase; "write" and its parts overlap, "generate" with itself too."""

    path: pathlib.Path
    num_frames: int
    num_without_face: int
    seconds: dict


class _Batch(typing.NamedTuple):
    """Neighbouring frames, and what the generator is fed for those of them that have a face."""

    frames: list  # of (H, W, 3) BGR uint8
    boxes: list  # of (4,) int32, or None for a frame without a face
    points: list  # of (68, 2) float32, or None where no landmarks are known
    faces: np.ndarray  # (B, S, S, 6) float32; rows past the faces are zero
    mels: np.ndarray  # (B, 80, 27, 1) float32


def lipsync(
    face, audio, out, generator, *, img_size=96, batch_size=8, sync_offset_ms=0, progress=False, made=None, **source
):
    """Write an mp4 to `out` in which the face (picture or video) says the audio (sound file, or a video's sound).

    generator: a keras.Model of `generator.build_generator`, an `inference.Speaker` (which is one made ready), or any
    function of (faces (B, S, S, 6) float32 in [0, 1], mels (B, 80, 27, 1) float32) that returns (B, S, S, 3) in [0, 1];
    S is the model's own, or else `img_size`.
    sync_offset_ms: see `lipsync_frames`. progress: show bars on stderr. source: the further arguments of `prepare`.
    made: those of the result: silence_gate (default True), see `lipsync_frames`; crf, lossless and comment, see
    `video.VideoWriter`; preview, the path of a PNG of 8 moments; side_by_side, the source to the left of the result.
    Returns a Result. Raises UserError. A file that lies at `out` is replaced, by a whole one or not at all.
    """
    clip = prepare(face, audio, progress=progress, **source)
    options = {"img_size": img_size, "batch_size": batch_size, "sync_offset_ms": sync_offset_ms}
    return write(clip, out, generator, progress=progress, **options, **(made or {}))


# Before the generator is needed ---------------------------------------------------------------------------------------


def prepare(
    face,
    audio,
    *,
    fps=None,
    detector=None,
    pads=(0, 0, 0, 0),
    boxes=None,
    static=False,
    max_s=None,
    box_cache=None,
    choice=None,
    start_s=0.0,
    end_s=None,
    resize_factor=1.0,
    reference="fitted",
    progress=False,
) -> Clip:
    """Read the sound, find the face, and settle how many frames there will be: round(duration_s * fps), at least 1.

    fps: frames a second of the result (default: a video's own rate, 25 for a picture); a video of another rate is
    resampled by time. static: use the first frame of a video as a still picture. detector: a `faces.FaceDetector`
    (default: the CNN). pads: (T, B, L, R) pixels. boxes: where the face is, instead of a search: (4,) for all frames or
    (N, 4), zeros where there is none; pads are added. max_s: use only so many seconds of the sound. box_cache: folder
    in which the boxes of videos are kept, so that the next call for the same video searches nothing. choice: which
    face, a `choice.FaceChoice` (default: the largest). start_s, end_s: the stretch of the video that is used (the sound
    is used from its beginning). resize_factor: by which the picture's sides are divided; boxes and pads are in pixels
    of the smaller picture.
    reference: what a video's generator looks at, of `reference.WAYS`; "same" where boxes are given.
    Raises UserError, also where no frame has a face.
    """
    face, audio, seconds = pathlib.Path(face), pathlib.Path(audio), {}

    def sound(work, *given):
        with timed(seconds, "sound"):
            return work(*given)

    with concurrent.futures.ThreadPoolExecutor(1) as beside, timed(seconds, "faces"):
        heard = beside.submit(sound, load_wav, audio, max_s)
        still, footage, rate = _source(face, fps, static, start_s, end_s, resize_factor)
        kept = None
        if boxes is None:
            detector, choice = detector or faces.FaceDetector(), choice or FaceChoice()
            if box_cache and still is None:
                settings = {"detector": detector.name, "pads": list(pads), "fps": rate, "bridge": BRIDGE}
                settings |= choice.settings | {"first": footage.first, "resize_factor": resize_factor}
                kept = cache_path(pathlib.Path(box_cache), face, **settings)
        wav = heard.result()
        num_frames = max(1, round(Fraction(len(wav), hparams.sample_rate) * rate))
        heard = beside.submit(sound, melspectrogram, wav)
        del wav  # a long one is large
        track = load_track(kept, num_frames) if kept else None
        if track is None:
            track = _searched(still, footage, rate, num_frames, detector, pads, boxes, choice, progress)
            if kept:
                save_track(kept, track, whole=len(track.found) < num_frames and end_s is None)
        mel = heard.result()
    found = track.found
    if not found.any():
        searched = f"any of the {len(found)} frames of" if len(found) > 1 else "the picture"
        how = f"detector {detector.kind}" if detector else "the given boxes"
        raise UserError(f"no face found in {searched} {face} ({how}); try --face_box T B L R or a larger face")
    height, width = still.shape[:2] if still is not None else (footage.info.height, footage.info.width)
    _check_boxes(track.boxes[found], height, width)
    colour = footage.info.colour if footage else None
    footage, references = (footage, None) if still is None else (None, None)
    if footage:
        with timed(seconds, "references"):
            references = read_references(reference, footage, track)
    return Clip(face, audio, max_s, still, footage, colour, rate, num_frames, mel, *track[:3], references, seconds)


def _searched(still, footage, rate, num_frames, detector, pads, boxes, choice, progress):
    """The faces.Track of the picture, or of as much of the video as the sound needs. Only that is kept."""
    frames = [still] if still is not None else footage.frames(num_frames)
    with contextlib.closing(ahead(frames, 8)) as read:
        total = 1 if still is not None else min(num_frames, footage.info.num_frames)
        bar = tqdm.tqdm(read, "faces", total, disable=not progress, unit="frame")
        if boxes is None:
            return faces.follow_face(bar, rate, detector, pads, BRIDGE, choice)
        return faces.Track(*_given_boxes(boxes, sum(1 for _ in bar), pads), None, None)


def _source(face, fps, static, start_s, end_s, resize_factor):
    """The still picture (or None), the Footage of a video (or None), and the frames a second of the result."""
    still = read_picture(face)
    if still is not None:
        return resized(still, resize_factor), None, video.as_rate(fps or STILL_FPS)
    footage = open_footage(face, start_s, end_s, resize_factor, fps)
    return next(footage.frames(1)) if static else None, footage, footage.info.fps


def _given_boxes(boxes, num_frames, pads):
    """The caller's boxes as `faces.find_boxes` would give them, for the frames that there are."""
    boxes = np.asarray(boxes, np.int32)
    boxes = np.broadcast_to(boxes, (num_frames, 4)) if boxes.ndim == 1 else boxes[:num_frames]
    if boxes.shape != (num_frames, 4):
        raise ValueError(f"boxes are {boxes.shape}, but {num_frames} frames of the face are needed")
    found = boxes.any(axis=1)
    return boxes + np.array([-pads[0], pads[1], -pads[2], pads[3]], np.int32) * found[:, None], found


def _check_boxes(boxes, height, width):
    """Raise UserError for a box that is empty or outside of the picture, as --pads and --face_box can make it."""
    top, bottom, left, right = boxes.T
    seen = (bottom - top > 1) & (right - left > 1) & (bottom > 0) & (top < height) & (right > 0) & (left < width)
    if not seen.all():
        box = " ".join(str(v) for v in boxes[~seen][0])
        raise UserError(
            f"the face's box {box} is empty or outside of the picture ({height} x {width}); change --pads or --face_box"
        )


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
        picture = stack.enter_context(whole_file(pathlib.Path(preview))) if preview else None  # both appear, or none
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
    batch at a time: a batch_size of 1 gives a video's first one soonest, larger ones more frames a second. On two
    cores some 50 ms pass from the call to the first frame with 1, then 10 to 16 ms a frame (benchmarks/RESULTS.md).
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
        from inference import Speaker

        generator = Speaker(generator, clip.still is not None, batch_size)
    if hasattr(generator, "forget"):  # a Speaker
        img_size, batch_size = generator.img_size, generator.batch_size
        generator.forget()
    frames = _still_frames(clip) if clip.still is not None else _to_and_fro(clip, folder)
    batches = ahead(_batches(clip, frames, img_size, batch_size, sync_offset_ms, silence_gate, seconds), 1)
    pasted = ahead(_pasted(ahead(_generated(batches, generator, seconds), 1), seconds), batch_size)
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


def _batches(clip, frames, img_size, batch_size, sync_offset_ms, silence_gate, seconds):
    """Group (index, frame) into _Batches, all of the same number of rows: a generator is compiled for one size."""
    late = Fraction(sync_offset_ms) / 1000 * clip.fps  # in frames
    at_rest = rest(clip.mel, clip.num_frames, clip.fps, late) if silence_gate else np.zeros(clip.num_frames, "float32")
    six, nothing = None, np.float32(-hparams.max_abs_value)
    for start in range(0, clip.num_frames, batch_size):
        with timed(seconds, "decode"):
            group = list(itertools.islice(frames, batch_size))
        with timed(seconds, "crop"):
            found = [(row, index) for row, (index, _) in enumerate(group) if clip.found[index]]
            mels = np.zeros((batch_size, hparams.num_mels, hparams.mel_window, 1), np.float32)
            for n, (row, _) in enumerate(found):
                window = mel_window(clip.mel, start + row + late, clip.fps)
                mels[n, ..., 0] = window + at_rest[start + row] * (nothing - window)
            if six is None or clip.still is None:  # a still picture is cropped once
                six = np.zeros((batch_size, img_size, img_size, 6), np.float32)
                for n, (row, index) in enumerate(found):
                    own = faces.crop(group[row][1], clip.boxes[index], img_size)
                    shown = own if clip.references is None else clip.references.crop(index, own, clip.landmarks(index))
                    six[n] = faces.generator_input(shown, own)
        boxes = [clip.boxes[index] if clip.found[index] else None for index, _ in group]
        points = [None if clip.points is None else clip.points[index] for index, _ in group]
        yield _Batch([frame for _, frame in group], boxes, points, six, mels)


def _generated(batches, generate, seconds):
    """Yield (batch, generated crops (n, S, S, 3) BGR uint8): one for each frame of the batch that has a face.

    As many batches are under way at a time as a Speaker says.
    """

    def work(batch):
        count, start = sum(box is not None for box in batch.boxes), time.perf_counter()
        crops = generate(batch.faces, batch.mels)[:count] if count else ()
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
            for source, box, points in zip(batch.frames, batch.boxes, batch.points, strict=True):
                with timed(seconds, "paste"):
                    frame = source if box is None else paste_back(source, next(crops), box, points)
                yield frame, box is not None, source
