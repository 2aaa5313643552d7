"""Face detector and dlib's 68 landmarks; `tracker` follows one face through a video.

Boxes are (top, bottom, left, right) in pixels, bottom and right exclusive; they may reach past the image's edge.
Frames and crops are BGR uint8.
"""

import bz2
import functools
import hashlib
import importlib.util
import itertools
import pathlib
import tempfile
import typing

import cv2
import dlib
import numpy as np

from audio_hparams import hparams
from lipgan.faces import mmod_openvino
from lipgan.faces.landmarks import LIPS, RIGID
from lipgan.faces.occlusion import NUM_CELLS, face_cells
from lipgan.utils import disk_cache
from lipgan.utils.cli import UserError
from lipgan.utils.files import atomic_write

DETECTORS = ("cnn", "hog")
PREDICTOR = "shape_predictor_68_face_landmarks.dat"
FACE_PX = 95  # dlib's CNN detects best at this size, and nothing under 80
WHOLE_SIDES = (320, 640, 1280, 1920)  # longer sides to which a whole image is scaled, until a face is found
LANDMARKS_PX, MAX_ENLARGED = 400, 4  # landmarks of smaller faces are found in an image that is enlarged, up to so much
UPRIGHT_PX = 160  # size of a face at which HOG tells whether it is upright
UPRIGHT_SCORE, TURNED_SCORE = 0.3, 1.0  # HOG's scores: upright faces have over 1.3, other ones under 0.3
TILE_SCALES = (1.0, 1.5)  # scales of the tiles in which a large frame is searched for faces from 60 px on
TILE_PX, TILE_OVERLAP_PX = 1_280, 240  # after scaling; a face in the overlap is complete in one of two tiles
NO_CELLS = np.zeros((NUM_CELLS, 3), np.uint8)


class Face(typing.NamedTuple):
    """One face in one frame, in the frame's pixels."""

    square: np.ndarray  # (4,) float64: its box before it is lengthened for the chin
    points: np.ndarray  # (68, 2) float32: dlib's landmarks, x and y
    cells: np.ndarray = NO_CELLS  # (NUM_CELLS, 3) uint8: of `occlusion.face_cells`


def model_file(name):
    """Return the path of a model in face_recognition_models, without importing that (it needs pkg_resources)."""
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None:
        raise UserError("the package face_recognition_models is missing; pip install -r requirements.txt")
    return pathlib.Path(spec.submodule_search_locations[0]) / "models" / name


def _unpacked(path):
    """Return the path of a detector's .dat; a .bz2 is decompressed once, into the folder of temporary files."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(
            f"--face_det_checkpoint {path}: no such file; leave it out to use the detector that pip installed"
        )
    if path.suffix != ".bz2":
        return path
    packed = path.read_bytes()
    target = pathlib.Path(tempfile.gettempdir()) / f"lipgan_{hashlib.sha256(packed).hexdigest()[:16]}.dat"
    if not target.exists():
        try:
            unpacked = bz2.decompress(packed)
        except (OSError, ValueError) as e:
            raise UserError(f"--face_det_checkpoint {path}: not a whole bz2 file ({e}); download it again") from e
        with atomic_write(target) as temporary:
            temporary.write_bytes(unpacked)
    return target


class FaceDetector:
    """dlib's CNN ("cnn") or HOG ("hog") face detector with dlib's 68 landmarks. Not thread-safe.

    checkpoint: a mmod_human_face_detector .dat or .dat.bz2 in place of the installed one. Raises UserError.
    """

    def __init__(self, kind="cnn", checkpoint=None):
        if kind not in DETECTORS:
            raise UserError(f"--detector {kind}: choose one of {', '.join(DETECTORS)}")
        self.kind = self.name = kind
        self.search_small = False  # whether `detect_whole` and `detect_all` end with `detect_small`, which is slow
        self._small = None, None  # last frame of `detect_small`, and its boxes
        if kind == "cnn":
            path = _unpacked(checkpoint) if checkpoint else model_file("mmod_human_face_detector.dat")
            self.name = f"cnn {path.name} {path.stat().st_size}"
            self._search = mmod_openvino.load_detector(path)
        else:
            self._search = lambda rgb: [mmod_openvino.sides(rect) for rect in _load_hog()(rgb, 0)]
        model_file(PREDICTOR)  # a missing package is reported now; half a second of loading waits until it is needed

    def release_memory(self):
        """Free what a search took and dlib's predictor: 150 MB. The next search takes it again, in half a second."""
        _load_predictor.cache_clear()
        if release := getattr(self._search, "release_memory", None):
            release()

    def detect(self, frame, scale=1.0):
        """Detect faces in the frame scaled by `scale`: (N, 4) float64 boxes in the frame's pixels, largest first."""
        if scale != 1.0:
            size = [max(1, round(n * scale)) for n in frame.shape[1::-1]]
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        boxes = np.array(self._search(rgb), np.float64).reshape(-1, 4) / scale
        return boxes[np.argsort([-_area(b) for b in boxes], kind="stable")]

    def detect_whole(self, frame, sides=WHOLE_SIDES, twice=True):
        """Detect faces in a whole image from coarse to fine scales; the first scale with a face ends the search."""
        longer = max(frame.shape[:2])
        scales = [side / longer for side in sides if side < longer]
        scales += [1.0] if longer <= max(sides) else []
        scales += [2.0] if twice and longer <= max(sides) // 2 else []
        for scale in scales:
            boxes = self.detect(frame, scale)
            if len(boxes):
                return boxes
        return self.detect_small(frame) if self.search_small and twice else np.zeros((0, 4))

    def detect_small(self, frame):
        """Detect faces from 60 px on in overlapping tiles at full size and larger. A 4K frame takes seconds."""
        if frame is self._small[0]:  # the same still image again
            return self._small[1]
        boxes = []
        for scale in TILE_SCALES:
            tile, step = (round(pixels / scale) for pixels in (TILE_PX, TILE_PX - TILE_OVERLAP_PX))
            for top, left in itertools.product(
                *(range(0, max(1, side - tile + step), step) for side in frame.shape[:2])
            ):
                part = frame[top : top + tile, left : left + tile]
                boxes = _distinct(boxes, self.detect(part, scale) + np.array([top, top, left, left]))
            if boxes:
                break
        self._small = frame, np.array(sorted(boxes, key=lambda b: -_area(b))).reshape(-1, 4)
        return self._small[1]

    def detect_all(self, frame):
        """Detect all faces of an image at every scale, each once: (N, 4) float64, largest first."""
        longer, boxes = max(frame.shape[:2]), []
        for side in [side for side in WHOLE_SIDES if side < longer] + [min(longer, max(WHOLE_SIDES))]:
            boxes = _distinct(boxes, self.detect(frame, side / longer))
        if self.search_small:
            boxes = _distinct(boxes, self.detect_small(frame))
        return np.array(sorted(boxes, key=lambda b: -_area(b))).reshape(-1, 4)

    def detect_near(self, frame, box):
        """Detect faces in the region of twice the box, scaled so that the face has FACE_PX."""
        side = max(box[1] - box[0], box[3] - box[2])
        top, left = (max(0, int(v)) for v in (box[0] - side / 2, box[2] - side / 2))
        bottom, right = int(box[1] + side / 2), int(box[3] + side / 2)
        region = frame[top : max(0, bottom), left : max(0, right)]
        if min(region.shape[:2]) < 8:
            return np.zeros((0, 4))
        return self.detect(region, FACE_PX / side) + np.array([top, top, left, left])

    def landmarks(self, frame, box):
        """Find dlib's 68 landmarks as `find_landmarks` does."""
        return find_landmarks(frame, box)

    def face(self, frame, box):
        """Find the Face in `box`, with a square placed by its rigid landmarks. Returns None where that is impossible.

        The square is nearly the same for both detectors, and stable while the mouth moves.
        """
        try:
            points = self.landmarks(frame, box)
        except ValueError:
            return None
        rigid = points[RIGID]
        (x, y), unit = rigid.mean(0), np.sqrt(((rigid - rigid.mean(0)) ** 2).sum(1).mean())
        half, y = hparams.crop_side / 2 * unit, y + hparams.crop_down * unit
        inside = 0 < y < frame.shape[0] and 0 < x < frame.shape[1]
        square = np.array([y - half, y + half, x - half, x + half])
        return Face(square, points.astype(np.float32), face_cells(frame, points)) if inside and half > 4 else None

    def square(self, frame, box):
        """Return the square of `face`, (4,) float64, or None."""
        face = self.face(frame, box)
        return None if face is None else face.square


@functools.cache
def _load_predictor():
    """Load dlib's landmark predictor once: 100 MB that never change, and that all threads may use."""
    return dlib.shape_predictor(str(model_file(PREDICTOR)))


@functools.cache
def _load_hog():
    """Load dlib's HOG face detector once.

    dlib unpacks it from its own library, in 0.4 s of processor time; from a file in its own format, it takes 1 ms.
    """
    key = f"dlib_hog_{dlib.__version__}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = pathlib.Path(folder) / "hog.svm"
        if packed := disk_cache.read(key, "svm"):
            path.write_bytes(packed)
            return dlib.fhog_object_detector(str(path))
        detector = dlib.get_frontal_face_detector()
        detector.save(str(path))
        disk_cache.write(key, "svm", path.read_bytes())
        return detector


def find_landmarks(frame, box):
    """Find dlib's 68 landmarks of the face in a box: (68, 2) float64, x and y in the frame's pixels.

    Raises ValueError for a box outside of the frame.
    """
    top, bottom, left, right = (round(float(v)) for v in box)
    # The predictor reads only pixels near the box: converting that region is cheaper than the whole frame.
    margin = (bottom - top) // 2
    y, x = max(0, top - margin), max(0, left - margin)
    region = frame[y : max(0, bottom + margin), x : max(0, right + margin)]
    if min(region.shape[:2]) < 8:
        raise ValueError(f"box {box} lies outside of the image {frame.shape[:2]}")
    region = cv2.cvtColor(region, cv2.COLOR_BGR2RGB)
    # The predictor rounds to pixels: in small faces, these are coarse beside the motion of lips.
    scale = min(max(1, LANDMARKS_PX // (bottom - top)), MAX_ENLARGED)
    if scale > 1:
        region = cv2.resize(region, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    box = dlib.rectangle(*(scale * v for v in (left - x, top - y, right - x, bottom - y)))
    shape = _load_predictor()(region, box)
    return np.array([(p.x, p.y) for p in shape.parts()], np.float64) / scale + (x, y)


def quarter_turn(frame, box):
    """Return by how many degrees clockwise the face in a box must be rotated to be upright: 90, 180, 270, or 0.

    0 also where no rotation shows a face better. dlib's CNN finds faces that lie on their side, but its landmarks are
    wrong there, and the mouth would be painted in a wrong place; HOG sees upright faces only.
    """
    side = box[1] - box[0]
    rows, columns = (slice(max(0, int(a - side / 2)), max(0, int(b + side / 2))) for a, b in (box[:2], box[2:]))
    if min(frame[rows, columns].shape[:2]) < 8:
        return 0
    scale = UPRIGHT_PX / side
    region = cv2.cvtColor(cv2.resize(frame[rows, columns], None, fx=scale, fy=scale), cv2.COLOR_BGR2RGB)
    hog, scores = _load_hog(), {}
    for degrees in (0, 90, 180, 270):
        rotated = np.ascontiguousarray(np.rot90(region, -degrees // 90))
        scores[degrees] = max(hog.run(rotated, 0, UPRIGHT_SCORE)[1], default=0.0)
        if scores[0]:
            return 0
    best = max(scores, key=scores.get)
    return best if scores[best] > TURNED_SCORE else 0


class LipLandmarks:
    """Finds dlib's landmarks in a face crop, in which the face's position is known."""

    def __call__(self, crop):
        """Find the lips: (S, S, 3) uint8 -> (20, 2) float64, x and y as fractions of the crop's side."""
        return self.face(crop)[LIPS]

    def face(self, crop):
        """Find all 68 landmarks: (S, S, 3) uint8 -> (68, 2) float64, x and y as fractions of the crop's side."""
        side = 2 * crop.shape[0]  # the predictor rounds to pixels
        large = cv2.resize(crop, (side, side), interpolation=cv2.INTER_CUBIC)
        square = (0, side / (1 + hparams.crop_lengthen), 0, side)
        return find_landmarks(large, square) / side


def _distinct(boxes, others):
    """Return the list `boxes` and the boxes of `others` that overlap none of them."""
    return boxes + [box for box in others if all(overlap(box, known) < 0.3 for known in boxes)]


def _area(box):
    return max(0.0, box[1] - box[0]) * max(0.0, box[3] - box[2])


def overlap(a, b):
    """Compute the intersection over union of two boxes, 0 to 1."""
    common = _area((max(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), min(a[3], b[3])))
    return common / max(_area(a) + _area(b) - common, 1e-9)


def final_box(square, pads=(0, 0, 0, 0)):
    """Compute the crop's box of a square: lengthened downwards for the chin, then grown by pads (T, B, L, R pixels)."""
    top, bottom, left, right = square
    bottom += hparams.crop_lengthen * (bottom - top)
    box = np.array([top - pads[0], bottom + pads[1], left - pads[2], right + pads[3]])
    return np.round(box).astype(np.int32)
