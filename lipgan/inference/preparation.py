"""What is known of a result before a generator is needed: its audio, its length, and where the face is."""

import contextlib
import dataclasses
import functools
import itertools
import pathlib
from fractions import Fraction

import numpy as np

from audio_hparams import hparams
from lipgan.faces import crop, tracker
from lipgan.faces.detector import FaceDetector, overlap, quarter_turn
from lipgan.faces.landmarks import mean_opening
from lipgan.faces.occlusion import covered_share
from lipgan.faces.rest_lips import rest_shape, upright_lips
from lipgan.faces.selection import SAME_PLACE, FaceSelection, face_squares
from lipgan.inference.articulation import RATE, deviation
from lipgan.inference.reference import References, read_references
from lipgan.inference.source import Source
from lipgan.inference.track_cache import cache_path, load_track, save_track
from lipgan.media.audio import AudioTrack, load_wav, open_audio
from lipgan.media.image import read_image
from lipgan.utils.cli import UserError, note, warn
from lipgan.utils.memory import return_freed_memory
from lipgan.utils.parallel import prefetch, timed

SMALL_FACE_FRAMES = 3  # frames that are searched for small faces, where no other face is found
MANY_FRAMES = 500  # of a result, for which it pays to free the detector's memory: the next video loads it again
BRIDGE = 5  # frames without a face that are taken to have one, between others that do


@dataclasses.dataclass(frozen=True)
class Audio:
    """The speech. From `load_audio`."""

    track: AudioTrack
    max_s: float | None  # seconds that are used; None: all
    wav: np.ndarray  # (n,) float32, 16 kHz mono


@dataclasses.dataclass(frozen=True)
class Clip:
    """What is to be generated, as far as it is known before a generator is needed. From `prepare`."""

    source: Source
    audio: Audio
    num_frames: int  # of the result
    track: tracker.Track  # of the N frames of the source that are used (1 of a still image); `points` may be None
    references: References | None  # None: each frame is its own
    rest_shapes: dict  # RestShape by shot; empty where no landmarks are known
    own_deviation: float | None  # `articulation.deviation` of the person's mouth in a video; None where unknown
    covered: np.ndarray  # (N,) float32: how much a frame keeps its own mouth, as it is covered or in profile
    seconds: dict  # spent so far, by phase

    def frame_index(self, number):
        """Return the index in the source of a frame of the result: a shorter video is played to and fro."""
        last = len(self.track.found) - 1
        step = number % (2 * last) if last else 0
        return min(step, 2 * last - step)

    def landmarks(self, index):
        """Return those of the face in frame `index`, (68, 2) float32 in parts of its crop."""
        return crop.to_crop_coords(self.track.points[index], self.track.boxes[index])

    def rest_lips(self, index):
        """Return the lips of the person at rest in the crop of frame `index`, (20, 2) float32; None where unknown."""
        if not self.rest_shapes:
            return None
        return self.rest_shapes[0 if self.track.shots is None else self.track.shots[index]].place(self.landmarks(index))

    def excess_roll(self, index):
        """Return by how many degrees the crop of frame `index` is rotated for the generator, to make it upright."""
        return 0.0 if self.track.points is None else float(crop.excess_roll(self.landmarks(index)))


def load_audio(path, options, face=None) -> Audio:
    """Load the speech: an audio file, or the audio of a video. Raises UserError.

    options: a `LipsyncOptions`. face: the source's file; of the same file, audio before the first frame is left out.
    """
    path = pathlib.Path(path)
    track = open_audio(path, options.audio_track, on_video_clock=face is not None and path.samefile(face))
    for line in track.notes:
        note(line)
    return Audio(track, options.max_sec, load_wav(track, options.max_sec))


def prepare(source, audio, options, boxes=None, cache_dir=None, progress=None) -> Clip:
    """Find the face in as many frames of the source as the audio needs: round(duration_s * fps), at least 1.

    source: of `open_source`. audio: of `load_audio`. options: a `LipsyncOptions`. boxes: where the face is, instead of
    a search: (4,) for all frames or (N, 4), zeros where there is none; pads are added. cache_dir: folder of face
    tracks, so that the next call for as much of the same video searches nothing. progress: see `pipeline.lipsync`.
    Raises UserError, also where no frame has a face.
    """
    options, seconds = options.with_defaults(None), {}
    num_frames = max(1, round(Fraction(len(audio.wav), hparams.sample_rate) * source.fps))
    with timed(seconds, "faces"):
        if boxes is None:
            track = find_track(source, num_frames, options, cache_dir, progress)
        else:
            track = _fixed_track(boxes, source, num_frames, options)
    if not track.found.any():
        raise _no_face(source, len(track.found), options, given=boxes is not None)
    _check_boxes(track.boxes[track.found], source.height, source.width)
    if boxes is None and track.found[0] and (degrees := quarter_turn(source.first_frame(), track.boxes[0])):
        note(f"the face of {source.path} is not upright, so its mouth will be wrong; {_turn_first(degrees)}")
    references, covered = None, np.zeros(len(track.found), np.float32)
    if not source.is_still:
        covered = covered_share(track, source.fps)
        with timed(seconds, "references"):
            references = read_references(options.reference, source, track, covered > 0)
    rest_shapes, own_deviation = _rest_shapes(track, covered > 0), _own_deviation(source, track, covered > 0)
    return Clip(source, audio, num_frames, track, references, rest_shapes, own_deviation, covered, seconds)


def _rest_shapes(track, covered):
    """Return the RestShape of the person in each shot of a track, by the shot's number. covered: (N,) bool."""
    if track.points is None:
        return {}
    shots, shapes = np.zeros(len(track.found), int) if track.shots is None else track.shots, {}
    for shot in np.unique(shots[track.found]).tolist():
        rows = np.flatnonzero((shots == shot) & track.found)
        rows = rows if covered[rows].all() else rows[~covered[rows]]
        shapes[shot] = rest_shape(crop.to_crop_coords(track.points[rows], track.boxes[rows]))
    return shapes


def _own_deviation(source, track, covered):
    """Return how much the mouth opens and shuts in a video's frames, `articulation.deviation`; None where unknown."""
    rows = np.flatnonzero(track.found & ~covered)
    if track.points is None or source.is_still or not len(rows):
        return None
    openings = mean_opening(upright_lips(crop.to_crop_coords(track.points[rows], track.boxes[rows])))
    times = np.arange(0, rows[-1] - rows[0], float(source.fps) / RATE) + rows[0]
    return deviation(np.interp(times, rows, openings))


def find_track(source, num_frames, options, cache_dir=None, progress=None) -> tracker.Track:
    """Follow the selected face through the first num_frames frames, or all of a shorter video."""
    detector = _load_detector(options.detector, options.face_det_checkpoint)
    selection = select_face(detector, source, options)
    if selection is None:
        return _fixed_track(options.face_box, source, num_frames, options)
    cached = None
    if cache_dir and not source.is_still:
        cached = _track_cache(pathlib.Path(cache_dir), source, detector, options, selection)
        if (track := load_track(cached, num_frames)) is not None:
            return track
    total = min(num_frames, source.num_frames)
    track = _searched(source, total, detector, selection, options, progress)
    if num_frames > MANY_FRAMES:
        detector.release_memory()
        return_freed_memory()
    if cached:
        count = len(track.found)
        save_track(cached, track, whole=count < num_frames or count == source.num_frames)
    return track


def _searched(source, count, detector, selection, options, progress):
    """Return the track of the selected face through the first `count` frames, small ones tried where there is none."""
    track = _followed(source, count, detector, selection, options, progress)
    if track.found.any() or not _has_small_face(source, count, detector):
        return track
    detector.search_small = True
    try:
        return _followed(source, count, detector, selection, options, progress)
    finally:
        detector.search_small = False


def _followed(source, count, detector, selection, options, progress):
    """Return the track of the selected face through the first `count` frames."""
    with contextlib.closing(prefetch(source.frames(count), 8)) as frames:
        frames = reported(frames, count, "faces", progress)
        return tracker.follow_face(frames, source.fps, detector, options.pads, BRIDGE, selection)


def _has_small_face(source, count, detector):
    """Return whether one of a few frames shows a face that only a search in tiles finds: seconds for each frame."""
    warn(f"no face found in {source.path} at once; small ones are searched for, which takes longer")
    with contextlib.closing(source.frames(count)) as frames:
        sample = itertools.islice(frames, 0, None, max(1, -(-count // SMALL_FACE_FRAMES)))
        return any(len(detector.detect_small(frame)) for frame in sample)


_load_detector = functools.lru_cache(maxsize=2)(FaceDetector)  # of a list of jobs, once


def select_face(detector, source, options):
    """Return the FaceSelection of the options; None where no face is found at --face_box, which is then used itself."""
    image = None
    if options.ref_face:
        image = read_image(options.ref_face)
        if image is None:
            raise UserError(f"--ref_face {options.ref_face} is not an image; give a photo of the person")
    box = options.face_box
    if not box:
        return FaceSelection(options.face_index, None, image)
    frame = source.first_frame()
    boxes = detector.detect_all(frame)
    if not any(overlap(square, box) >= SAME_PLACE for square in face_squares(detector, frame, boxes)):
        note(f"no face is found at --face_box {' '.join(map(str, box))}: the box itself is used for all frames")
        return None
    return FaceSelection(None, box, None, boxes)


def reported(items, total, phase, progress):
    """Yield the items, and call progress(done, total, phase) after each (None: not at all)."""
    for done, item in enumerate(items, 1):
        yield item
        if progress:
            progress(done, total, phase)


def _track_cache(folder, source, detector, options, selection):
    """Return the file in which the track of this source is kept."""
    settings = {"detector": detector.name, "pads": list(options.pads), "bridge": BRIDGE, **selection.settings}
    settings |= {"fps": source.fps, "first": source.first, "num_frames": source.num_frames}
    return cache_path(folder, source.path, **settings, resize_factor=source.resize_factor)


def _fixed_track(boxes, source, num_frames, options):
    """Return the track of boxes that are given, (4,) or (N, 4), for the frames that can be decoded."""
    count = 1 if source.is_still else sum(1 for _ in source.frames(num_frames))
    boxes = np.asarray(boxes, np.int32)
    boxes = np.broadcast_to(boxes, (count, 4)) if boxes.ndim == 1 else boxes[:count]
    if boxes.shape != (count, 4):
        raise ValueError(f"boxes are {boxes.shape}, but {count} frames of the face are needed")
    found = boxes.any(axis=1)
    top, bottom, left, right = options.pads
    boxes = boxes + np.array([-top, bottom, -left, right], np.int32) * found[:, None]
    return tracker.Track(boxes, found, None, None, None)


def _no_face(source, count, options, given):
    """Return the UserError of a source without a face."""
    searched = f"any of the {count} frames of" if count > 1 else "the image"
    if options.ref_face and not given:
        return UserError(
            f"no face like --ref_face's found in {searched} {source.path}; --list_faces shows who is there"
        )
    how = "the given boxes" if given else f"detector {options.detector}"
    if not given and (degrees := _degrees_to_a_face(source, options)):
        return UserError(f"no upright face found in {searched} {source.path}; {_turn_first(degrees)}")
    return UserError(f"no face found in {searched} {source.path} ({how}); try --face_box T B L R or a larger face")


def _degrees_to_a_face(source, options):
    """Return by how many degrees the first frame must be rotated clockwise to show a face; 0 where none helps."""
    detector, frame = _load_detector(options.detector, options.face_det_checkpoint), source.first_frame()
    for degrees in (180, 90, 270):  # the CNN finds most faces that lie on their side
        boxes = detector.detect_whole(np.ascontiguousarray(np.rot90(frame, -degrees // 90)))
        if len(boxes):
            return degrees
    return 0


def _turn_first(degrees):
    """Return what to do with an image or a video that is not upright, in words."""
    how = {90: "by 90 degrees clockwise", 180: "by 180 degrees", 270: "by 90 degrees counterclockwise"}[degrees]
    return f"rotate it {how} first"


def _check_boxes(boxes, height, width):
    """Raise UserError for a box that is empty or outside of the frame, as --pads and --face_box can make it."""
    top, bottom, left, right = boxes.T
    inside = (bottom - top > 1) & (right - left > 1) & (bottom > 0) & (top < height) & (right > 0) & (left < width)
    if not inside.all():
        box = " ".join(str(v) for v in boxes[~inside][0])
        raise UserError(
            f"the face box {box} is empty or outside of the frame ({height} x {width}); change --pads or --face_box"
        )
