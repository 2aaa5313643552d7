"""Lip-sync: the face of an image or a video says what an audio file says.

Decoding, generator, pasting and encoding work at the same time, each a few frames ahead of the next. Of frames, only
those few are in memory, and up to 256 MB of those that come again and 128 MB of their faces; of an hour of audio 320 MB
(samples and mel spectrogram), of an hour of video 80 MB (landmarks, boxes, colours).
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import pathlib
import time
from fractions import Fraction

import cv2
import numpy as np

from lipgan import __version__
from lipgan.faces import crop
from lipgan.faces.detector import LipLandmarks
from lipgan.faces.landmarks import LIPS, NUM_LIPS
from lipgan.faces.rest_lips import natural_expression, rest_lips, with_expression
from lipgan.inference.articulation import LISTEN, motion_gain
from lipgan.inference.audio_features import AudioFeatures, audio_features
from lipgan.inference.blend import paste_back
from lipgan.inference.drawn_teeth import TeethLook, hidden_teeth, teeth_look
from lipgan.inference.frame import Frame
from lipgan.inference.frame_cache import FrameCache
from lipgan.inference.options import LipsyncOptions, RunnerOptions
from lipgan.inference.preparation import load_audio, prepare, reported
from lipgan.inference.reference import Fitted, FittedInside
from lipgan.inference.render import MouthMaps, paste_mouth
from lipgan.inference.runner import load_runner
from lipgan.inference.silence_gate import silence_weights
from lipgan.inference.source import open_source
from lipgan.media import video
from lipgan.models.metadata import description
from lipgan.utils.cli import UserError, collected_notes, note, warn
from lipgan.utils.files import atomic_write
from lipgan.utils.parallel import prefetch, timed

PREVIEW_MOMENTS, PREVIEW_WIDTH = 8, 320
DARK, MAX_BRIGHTENING = 45.0, 16.0  # mean level under which a crop is brightened for the generator, and how far at most
FACES_BYTES = 128 * 2**20  # of the faces of frames that come again: 190 of 350 pixels
REGION_MARGIN = 8  # pixels around a face box: chroma is interpolated from its neighbours


@dataclasses.dataclass(frozen=True)
class Result:
    """A written result."""

    path: pathlib.Path
    num_frames: int
    num_without_face: int  # frames that were left as they are
    num_covered: int  # as well, as their mouth is covered or in profile
    fps: Fraction
    width: int
    height: int
    seconds: dict  # by phase; phases overlap
    assumptions: tuple[str, ...]  # what was chosen without being asked for
    notes: tuple[str, ...] = ()  # what was found in the files and changed, such as a frame rate or HDR

    def summary(self):
        """Describe the result in lines: path, length and size; frames without a face; assumptions; notes."""
        duration_s, mb = float(self.num_frames / self.fps), self.path.stat().st_size / 1e6
        size = f"{self.width} x {self.height}, {mb:.1f} MB"
        lines = [f"{self.path}: {duration_s:.2f} s, {self.num_frames} frames, {size}"]
        if self.num_without_face:
            lines.append(f"without a face, left as they are: {self.num_without_face} of {self.num_frames} frames")
        if self.num_covered:
            lines.append(
                f"mouth covered or in profile, left as they are: {self.num_covered} of {self.num_frames} frames"
            )
        return [*lines, *(f"assumed {assumption}" for assumption in self.assumptions), *self.notes]

    def time_by_phase(self):
        """Describe the seconds in a line."""
        return "time by phase, which overlap: " + ", ".join(f"{k} {s:.1f} s" for k, s in self.seconds.items())


@dataclasses.dataclass(frozen=True)
class _Region:
    """The part of a frame that is converted to BGR: the face box and a margin."""

    rows: slice
    columns: slice
    pixels: np.ndarray  # (h, w, 3) BGR uint8
    box: np.ndarray  # (4,) int: the face box in the region's pixels

    def local(self, points):
        """Return points (..., 2), x and y in the frame's pixels, in those of the region."""
        return points - np.array([self.columns.start, self.rows.start], np.float32)


def _region(frame, box):
    """Return the _Region of a Frame around a box (top, bottom, left, right), which may lie partly outside."""
    (height, width), (top, bottom, left, right) = frame.shape, (int(v) for v in box)
    rows, columns = (
        slice(max(0, (first - REGION_MARGIN) // 2 * 2), min(size, (end + REGION_MARGIN + 1) // 2 * 2))
        for first, end, size in ((top, bottom, height), (left, right, width))
    )
    local = np.array([top - rows.start, bottom - rows.start, left - columns.start, right - columns.start])
    return _Region(rows, columns, frame.region(rows, columns), local)


@dataclasses.dataclass(frozen=True)
class _Mouth:
    """One frame's mouth, as prepared before anything is said. Lips are (40,) float32 in parts of the crop."""

    reference: Fitted | None  # what is fitted into what the box shows; None: nothing
    lips: np.ndarray  # of the reference, upright; zeros where no generator needs them
    rest_lips: np.ndarray  # of this person at rest, upright; as well
    inside: FittedInside | None = None  # what is behind the lips, of another image of this face
    speaking_lips: np.ndarray | None = None  # of a still image: what rest_lips are outside of pauses
    at_rest: float = 0.0  # how much it stays there, 1: it does not move with the audio
    detail: float = np.nan  # of the shot's mouths, `mouth_detail`; nan where unknown, as of a still image
    gain: float = 1.0  # by which a dark crop was brightened for the generator; what it paints is darkened by as much
    motion_gain: float = 1.0  # by which the generator's motion of the lips is multiplied
    teeth_look: TeethLook | None = None  # where the image of the mouth's inside hides the teeth, else None


@dataclasses.dataclass(frozen=True)
class _Face:
    """The face in one frame, as prepared before anything is said."""

    region: _Region
    landmarks: np.ndarray | None  # (68, 2) float32 in the region's pixels
    roll: float  # degrees by which the crop was rotated to be upright
    covered: float  # share in [0, 1] of the frame's own mouth in the result
    image: np.ndarray  # (S, S, 6) uint8 of `crop.generator_input_uint8`
    mouth: _Mouth

    @property
    def num_bytes(self):
        """Count the bytes of memory that the face takes."""
        layers = (self.mouth.reference, self.mouth.inside and self.mouth.inside.mouth)
        fitted = sum(layer.pixels.nbytes for layer in layers if layer)
        return self.region.pixels.nbytes + self.image.nbytes + fitted


@dataclasses.dataclass
class _Batch:
    """Neighbouring frames, and the generator's inputs for those F of them that have a face."""

    frames: list  # of Frame
    faces: list  # of _Face; None for a frame without a face
    mouths: list  # F Mouths
    images: np.ndarray  # (F, S, S, 6) uint8
    audio: np.ndarray  # (F, ...) float32: windows of AudioFeatures


@dataclasses.dataclass(frozen=True)
class Heard:
    """What a generator hears in a recording. From `hear`."""

    features: AudioFeatures
    openings: np.ndarray | None  # (N, M) of `GeneratorRunner.member_openings`; None where the generator has no members


def hear(wav, runner) -> Heard:
    """Compute what a generator hears in 16 kHz mono audio, (n,) float32."""
    features = audio_features(runner.audio_kind, wav)
    return Heard(features, runner.member_openings(features.values[:LISTEN]) if runner.needs_lips else None)


@dataclasses.dataclass(frozen=True)
class Speech:
    """The recording as the generator hears it."""

    features: AudioFeatures
    silence: np.ndarray  # (num_frames,) float32: how much the mouth is at rest
    offset_ms: float
    pauses: np.ndarray | None  # (num_frames,) float32: how much nothing is said; None for a video
    expression: float | None  # strength of a still image's own expression; None: what is natural
    motion_gain: float = 1.0  # of `articulation.motion_gain`

    def expressed(self, mouth, frame):
        """Return the _Mouth of one video frame of the result: it rests with its own expression, as far as that is kept.

        The rest shape of a video's person comes from the video, and has that expression already.
        """
        mouth = dataclasses.replace(mouth, motion_gain=self.motion_gain)
        if self.pauses is None:
            return mouth
        pause = float(self.pauses[frame])
        strength = natural_expression(mouth.lips) if self.expression is None else self.expression
        speaking = with_expression(mouth.rest_lips, mouth.lips, strength, 0.0)
        rest = with_expression(mouth.rest_lips, mouth.lips, strength, pause) if pause else speaking
        return dataclasses.replace(mouth, rest_lips=rest, speaking_lips=speaking, at_rest=strength * pause)

    def window(self, frame, fps):
        """Return the audio window of one video frame of the result."""
        return self.features.window(frame, fps, self.offset_ms, self.silence[frame])


def lipsync(face, audio, out, runner=None, options=LipsyncOptions(), progress=None) -> Result:  # noqa: B008 (frozen)
    """Write an mp4 to `out` in which the face (image or video) says the audio (audio file, or a video's audio).

    runner: from `load_runner`, or a `RunnerOptions`; None: the shipped weights. A runner serves one call at a time, any
    number one after another. options: see `LipsyncOptions`. progress: a function (done, total, phase), called after
    each frame; phase is "faces" while the face is searched (not for a still image, nor where the track is cached), then
    "frames" while the result is generated. An exception that it raises ends the work and removes what was written.

    Returns a Result. Raises UserError, in one line for the user. A file at `out` is replaced, as a whole or not at all.
    """
    out = pathlib.Path(out)
    with _Loading(runner) as loading, collected_notes() as notes:
        options = options.with_defaults(loading.info)
        _warn_of_other_crops(loading.info, options)
        boxes = out.parent / ".boxes" if options.box_cache else None
        clip = _prepare(face, audio, options, loading, boxes, progress)
        result = write_video(clip, out, loading.runner(clip), options, progress, loading.heard())
    return dataclasses.replace(result, notes=tuple(notes))


def lipsync_frames(face, audio, runner=None, options=LipsyncOptions(), progress=None):  # noqa: B008
    """Yield the frames that `lipsync` writes, as ((H, W, 3) BGR uint8, has_face). Arguments as there."""
    with _Loading(runner) as loading:
        options = options.with_defaults(loading.info)
        clip = _prepare(face, audio, options, loading, None, progress)
        runner, heard = loading.runner(clip), loading.heard()
    speech = _speech(clip, runner, options, heard)
    with contextlib.closing(generate_frames(clip, runner, options, speech=speech)) as frames:
        yield from reported(frames, clip.num_frames, "frames", progress)


class _Loading(contextlib.ExitStack):
    """Loads a generator and lets it hear the audio, in a thread: that takes about as long as a search for the face.

    runner: as of `lipsync`. info: the description of its checkpoint, or None.
    """

    def __init__(self, runner):
        super().__init__()
        if isinstance(runner, RunnerOptions | None):
            wanted = runner or RunnerOptions()
            given = wanted.checkpoint_path, wanted.model, wanted.lipgan_batch_size, wanted.precision, wanted.backend
            self.info = description(wanted.checkpoint_path)
        else:
            given, self.info = (), runner.info
        # Of one thread: Keras may be imported in it.
        self._thread = self.enter_context(concurrent.futures.ThreadPoolExecutor(1))
        self._runner = self._thread.submit(_loaded, *given) if given else runner
        self._heard = None

    def hear(self, wav):
        """Begin to compute what the generator hears."""
        self._heard = self._thread.submit(lambda: hear(wav, self._get_runner()))

    def heard(self):
        """Return the Heard of what `hear` was given."""
        return self._heard.result()

    def runner(self, clip):
        """Return the runner, reset for a clip."""
        return self._get_runner().reset(clip.source.is_still)

    def _get_runner(self):
        return self._runner.result() if isinstance(self._runner, concurrent.futures.Future) else self._runner


def _loaded(*given):
    """Return the runner of `load_runner`, compiled where that does not depend on the clip."""
    runner = load_runner(*given)
    return runner.reset() if runner.needs_lips else runner


def _prepare(face, audio, options, loading, cache_dir, progress):
    source, sound = open_source(face, options), load_audio(audio, options, face)
    loading.hear(sound.wav)
    return prepare(source, sound, options, cache_dir=cache_dir, progress=progress)


def _warn_of_other_crops(info, options):
    """Warn where faces are cropped in another way than those that the weights were trained on."""
    for name, here in (("detector", options.detector), ("pads", options.pads)):
        there = (info or {}).get(name, here)
        if here != (tuple(there) if name == "pads" else there):
            warn(f"warning: the weights were trained with --{name} {there}, not {here}; results will be worse")


# With the generator ---------------------------------------------------------------------------------------------------


def write_video(clip, out, runner, options, progress=None, heard=None) -> Result:
    """Write the video of a prepared clip; arguments and result as of `lipsync`. runner: reset for this clip.

    heard: `hear` of its audio, where that is at hand.
    """
    out, seconds, source = pathlib.Path(out), dict(clip.seconds), clip.source
    width, without_face = source.width * (1 + options.side_by_side), 0
    is_odd = bool(width % 2 or source.height % 2)
    comment = f"Synthetic: lips made by LipGAN in Keras 3, version {__version__}, with {runner.name}"
    encoding = video.Encoding(
        colour=source.colour,
        crf=options.crf,
        lossless=options.lossless,
        comment=None if options.no_metadata else comment,
        max_s=clip.audio.max_s,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(timed(seconds, "write"))
        png = stack.enter_context(atomic_write(out.with_suffix(".png"))) if options.preview else None  # both, or none
        preview = _Preview(clip.num_frames) if png else None
        writer = stack.enter_context(
            video.VideoWriter(out, width, source.height, source.fps, clip.audio.track, encoding)
        )
        with timed(seconds, "audio"):
            speech = _speech(clip, runner, options, heard)
        frames = stack.enter_context(contextlib.closing(_generate(clip, runner, options, out.parent, seconds, speech)))
        for frame, has_face, original in reported(frames, clip.num_frames, "frames", progress):
            with timed(seconds, "encode"):
                if options.side_by_side:
                    frame = Frame(original.colour, np.hstack([original.bgr(), frame.bgr()]))
                writer.write(frame.bgr() if options.lossless or is_odd else frame.planes())
            if preview:
                preview.add(frame)
            without_face += not has_face
        if writer.num_frames < clip.num_frames:
            raise UserError(f"{source.path} ended before its time when it was read again; is it still being written?")
        if preview:
            png.write_bytes(preview.encoded())
    size = width, source.height
    covered = sum(clip.covered[clip.frame_index(number)] >= 0.5 for number in range(clip.num_frames))
    counts = clip.num_frames, without_face, int(covered)
    return Result(out, *counts, source.fps, *size, seconds, _assumptions(clip, options))


def _assumptions(clip, options):
    """Return what was chosen for a result without being asked for, in words."""
    source, lines = clip.source, []
    if not (options.face_index is not None or options.face_box or options.ref_face):
        lines.append("face: the largest" + ("" if source.is_still else ", followed across cuts"))
    if not options.fps:
        lines.append(f"frame rate: {float(source.fps):.5g}, {'the video’s own' if source.info else 'as for any image'}")
    if options.max_sec is None:
        lines.append(f"audio: all of {clip.audio.track.path.name}")
    if not source.is_still and clip.num_frames > len(clip.track.found):
        lines.append(f"video: its {len(clip.track.found)} frames played to and fro, as the audio is longer")
    return tuple(lines)


class _Preview:
    """An image of PREVIEW_MOMENTS frames, in two rows."""

    def __init__(self, num_frames):
        self._moments = np.linspace(0, num_frames - 1, PREVIEW_MOMENTS).round().tolist()
        self._count, self._shown = 0, []

    def add(self, frame):
        """Take the next frame of the result."""
        if times := self._moments.count(self._count):
            height = max(1, round(PREVIEW_WIDTH * frame.shape[0] / frame.shape[1]))
            self._shown += [cv2.resize(frame.bgr(), (PREVIEW_WIDTH, height), interpolation=cv2.INTER_AREA)] * times
        self._count += 1

    def encoded(self):
        """Return the bytes of the PNG."""
        rows = [np.hstack(self._shown[i : i + PREVIEW_MOMENTS // 2]) for i in (0, PREVIEW_MOMENTS // 2)]
        return cv2.imencode(".png", np.vstack(rows))[1]


def generate_frames(clip, runner, options, cache_dir=None, seconds=None, speech=None):
    """Yield the num_frames frames of a prepared clip, as ((H, W, 3) BGR uint8, has_face).

    A frame without a face is the source's. runner: a GeneratorRunner that was reset for this clip. cache_dir: folder
    for the frames of a video that come again (default: the system's folder for temporary files). seconds: a dict to
    which the time at work is added, by phase. speech: a Speech, or what is used as one (default: that of the clip's
    audio). Frames come out a batch at a time: a batch size of 1 gives a video's
    first one soonest, larger ones more frames per second.
    """
    with contextlib.closing(_generate(clip, runner, options, cache_dir, seconds, speech)) as frames:
        for frame, has_face, _ in frames:
            yield frame.bgr(), has_face


def _generate(clip, runner, options, cache_dir=None, seconds=None, speech=None):
    """Yield (Frame, has_face, the source's Frame), otherwise as `generate_frames` does."""
    seconds = {} if seconds is None else seconds
    speech = speech or _speech(clip, runner, options)
    batches = prefetch(_batches(clip, speech, runner, cache_dir, seconds), 1)
    generated = prefetch(_predict(batches, runner, seconds), 1)
    with contextlib.closing(prefetch(_paste(generated, seconds), runner.batch_size)) as pasted:
        yield from pasted


def _speech(clip, runner, options, heard=None):
    """Return the Speech of a clip for this generator. heard: `hear` of its audio, where that is at hand."""
    offset_ms = runner.info.get("sync_offset_ms", 0) if options.sync_offset_ms is None else options.sync_offset_ms
    heard = heard or hear(clip.audio.wav, runner)
    fps = clip.source.fps
    gated, silence = options.gates_silence(runner.audio_kind), np.zeros(clip.num_frames, np.float32)
    pauses = silence
    if gated or clip.source.is_still:
        pauses = silence_weights(clip.audio.wav, clip.num_frames, fps, Fraction(offset_ms) / 1000 * fps)
        silence = pauses if gated else silence
    pauses = pauses if clip.source.is_still else None
    gain = options.motion_gain
    if heard.openings is not None:
        gain *= motion_gain(heard.openings, clip.own_deviation)
    elif gain != 1:
        note(f"--motion_gain {gain:g} has no effect with {runner.name}; only a generator of --model warp moves lips")
    return Speech(heard.features, silence, offset_ms, pauses, options.expression, gain)


def _play(clip, cache_dir):
    """Yield (index, Frame) of a video, forwards, backwards from its end, forwards again; of an image, always itself.

    The frames that will come again are kept in a FrameCache.
    """
    if clip.source.is_still:
        yield from ((0, frame) for frame in clip.source.plane_frames(clip.num_frames))
        return
    last = len(clip.track.found) - 1
    # The earliest frame that comes again; where the video is as long as the audio, none does.
    first_again = max(0, 2 * last + 1 - clip.num_frames)
    with FrameCache(cache_dir) as cache:
        for index, frame in enumerate(clip.source.plane_frames(last + 1)):
            yield index, frame
            if index >= first_again and clip.num_frames > last + 1:
                cache.put(index, frame)
        for k in range(last + 1, clip.num_frames):
            index = clip.frame_index(k)
            yield index, cache.get(index)


def _batches(clip, speech, runner, cache_dir, seconds):
    """Group the frames into _Batches."""
    find_lips = LipLandmarks() if runner.needs_lips and clip.track.points is None else None
    seen, num_bytes = {}, 0  # _Faces by index, of frames that come again
    comes_again = clip.num_frames > len(clip.track.found)
    with contextlib.closing(_play(clip, cache_dir)) as frames:
        for start in range(0, clip.num_frames, runner.batch_size):
            with timed(seconds, "decode"):
                group = list(itertools.islice(frames, runner.batch_size))
            with timed(seconds, "crop"):
                faces = []
                for index, frame in group:
                    face = seen.get(index)
                    if face is None and clip.track.found[index]:
                        face = _face(clip, index, frame, runner, find_lips)
                        if comes_again and num_bytes + face.num_bytes <= FACES_BYTES:
                            seen[index], num_bytes = face, num_bytes + face.num_bytes
                    faces.append(face)
                shown = [(row, face) for row, face in enumerate(faces) if face is not None]
                images = np.stack([face.image for _, face in shown]) if shown else None
                audio = np.stack([speech.window(start + row, clip.source.fps) for row, _ in shown]) if shown else None
                mouths = [speech.expressed(face.mouth, start + row) for row, face in shown]
            yield _Batch([frame for _, frame in group], faces, mouths, images, audio)


def _face(clip, index, frame, runner, find_lips):
    """Return the _Face of a Frame. find_lips: a LipLandmarks where lips are needed and none are known, else None."""
    region, roll = _region(frame, clip.track.boxes[index]), clip.excess_roll(index)
    landmarks = None if clip.track.points is None else region.local(clip.track.points[index])
    covered = float(clip.covered[index])
    return _Face(region, landmarks, roll, covered, *_crop(clip, index, region, roll, runner, find_lips))


def _crop(clip, index, region, roll, runner, find_lips):
    """Return the generator's face (S, S, 6) uint8 for a frame, and its _Mouth.

    find_lips: a LipLandmarks where lips are needed and no landmarks are known, else None.
    """
    own, reference = crop.cut(region.pixels, region.box), None
    points = None if clip.track.points is None else clip.landmarks(index)
    rest = clip.rest_lips(index)
    inside, detail = None, np.nan
    if clip.references is not None:
        if runner.needs_lips and (inside := clip.references.fit_inside(index, own, points)):
            inside = dataclasses.replace(inside, lips=crop.rotate_points(inside.lips, roll).ravel())
        reference, points = clip.references.fit(index, own, points)
        detail = float(clip.references.detail[index])
    size = runner.img_size
    pose = crop.rotate(crop.resize_crop(own, size), roll)
    shown = own if reference is None else reference.onto(own)
    upright = pose if reference is None else crop.rotate(crop.resize_crop(shown, size), roll)
    lips = rest_upright = np.zeros(2 * NUM_LIPS, np.float32)
    look = None
    if points is None and find_lips:
        points = find_lips.face(upright).astype(np.float32)
        rest = rest_lips(points)
    if points is not None and runner.needs_lips:
        lips = crop.rotate_points(points[LIPS], roll).ravel()
        rest_upright = crop.rotate_points(rest, roll).ravel()
        if hidden_teeth(inside.lips if inside else lips):
            look = teeth_look(shown, lips, roll)
    gain = float(np.clip(DARK / max(upright.mean(), 1e-6), 1, MAX_BRIGHTENING))
    mouth = _Mouth(reference, lips, rest_upright, inside, detail=detail, gain=gain, teeth_look=look)
    return crop.generator_input_uint8(upright, pose), mouth


def _predict(batches, runner, seconds):
    """Yield (batch, what the runner generated for each of its F faces), as many batches under way as it takes.

    That is a list of crops (S, S, 3) BGR uint8, or of the flagship's MouthMaps.
    """

    def work(batch):
        start = time.perf_counter()
        return batch, _predict_batch(batch, runner) if batch.mouths else [], time.perf_counter() - start

    under_way = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(runner.concurrency) as pool, contextlib.closing(batches):
        for batch in itertools.chain(batches, [None] * runner.concurrency):
            if batch is not None:
                under_way.append(pool.submit(work, batch))
            if under_way and (batch is None or len(under_way) == runner.concurrency):
                batch, results, taken = under_way.popleft().result()
                seconds["generate"] = seconds.get("generate", 0.0) + taken
                yield batch, results


def _predict_batch(batch, runner):
    gains = np.array([mouth.gain for mouth in batch.mouths], np.float32)[:, None, None, None]
    images = np.minimum(batch.images / np.float32(255) * gains, 1)
    if not runner.needs_lips:
        crops = np.asarray(runner.predict(images, batch.audio), np.float32) / gains
        return list(np.clip(crops * 255 + 0.5, 0, 255).astype(np.uint8))
    lips, rest = (np.stack([getattr(mouth, name) for mouth in batch.mouths]) for name in ("lips", "rest_lips"))
    motion = np.array([[mouth.motion_gain] for mouth in batch.mouths], np.float32)
    moved, corrections = runner.predict_mouths(images, batch.audio, lips, rest, motion)
    layers = [(mouth.inside, mouth.detail, mouth.teeth_look) for mouth in batch.mouths]
    results = [MouthMaps(*values, *layer) for *values, layer in zip(lips, moved, corrections, layers, strict=True)]
    return [
        maps.in_pause(mouth.rest_lips, mouth.speaking_lips, mouth.at_rest) if mouth.at_rest else maps
        for maps, mouth in zip(results, batch.mouths, strict=True)
    ]


def _paste(generated, seconds):
    """Yield (Frame, has_face, the source's Frame), what was generated pasted into the frames that have a face."""
    with contextlib.closing(generated):
        for batch, results in generated:
            pairs = zip(batch.mouths, results, strict=True)
            for source, face in zip(batch.frames, batch.faces, strict=True):
                with timed(seconds, "paste"):
                    frame = source
                    if face is not None:
                        region, pasted = face.region, _paste_one(face, *next(pairs))
                        if face.covered:
                            pasted = cv2.addWeighted(region.pixels, face.covered, pasted, 1 - face.covered, 0)
                        if face.covered < 1:
                            frame = source.patched(region.rows, region.columns, pasted, region.pixels)
                yield frame, face is not None, source


def _paste_one(face, mouth, result):
    """Return the pixels of a _Face's region with one generated mouth."""
    region, landmarks = face.region, face.landmarks
    if isinstance(result, MouthMaps):
        reference = own = crop.cut(region.pixels, region.box)
        if mouth.reference:
            reference = mouth.reference.onto(own)
        if mouth.inside:
            result = dataclasses.replace(result, inside=mouth.inside.onto(own))
        return paste_mouth(region.pixels, reference, result, region.box, landmarks, face.roll)
    return paste_back(region.pixels, crop.rotate(result, -face.roll), region.box, landmarks)
