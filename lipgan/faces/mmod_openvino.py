"""dlib's CNN face detector (King, Max-Margin Object Detection, 2015): its weights run by OpenVINO.

dlib's own wheel has no fast matrix product: OpenVINO takes a tenth of the time and releases the GIL. Boxes are equal or
a pixel off; rarely, one is the neighbouring window.
An image pyramid is tiled on one canvas, to which seven convolutions are applied; every positive cell of the output is
a window of 80 pixels with a face.
"""

import pathlib

import cv2
import dlib
import numpy as np

from lipgan.utils.cli import UserError
from lipgan.utils.imports import import_openvino

SHRINK = 5 / 6  # scale from one pyramid level to the next
GAP, BORDER = 10, 11  # pixels between the levels on the canvas, and around them
MIN_ROWS = 5  # of the smallest level
GRID = 64  # the canvas' sides are multiples of this: OpenVINO compiles the network again for every size
STRIDES = (2, 2, 2, 1, 1, 1, 1)
STRIDE, MIDDLE = 8, 14  # output cell x belongs to the window centred on canvas pixel 8 x + 14
EPSILON = 1e-4  # of batch normalisation


def load_detector(path):
    """Load a mmod_human_face_detector.dat as a function from (H, W, 3) RGB uint8 to face boxes, the most certain first.

    dlib itself is used where it was built for a GPU, where OpenVINO is missing and for a file with another network.
    Boxes: (top, bottom, left, right) of the first and the last pixel. Raises UserError.
    """
    if not (dlib.DLIB_USE_CUDA and dlib.cuda.get_num_devices()):
        try:
            return Detector(path)
        except (ImportError, UnknownNetwork):
            pass
    try:
        network = dlib.cnn_face_detection_model_v1(str(path))
    except RuntimeError as e:
        reason = str(e).strip().splitlines()[0]
        raise UserError(f"--face_det_checkpoint {path}: not a dlib CNN face detector ({reason})") from e
    return lambda image: [sides(detection.rect) for detection in network(image, 0)]


def sides(rect):
    """Convert a dlib.rectangle to (top, bottom, left, right)."""
    return rect.top(), rect.bottom(), rect.left(), rect.right()


class UnknownNetwork(ValueError):
    """The file does not hold the network that is built here."""


class _Reader:
    """Reads dlib's serialisation. An integer is a byte with its length and sign, then its little-endian bytes."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def find(self, name):
        start = self.data.find(name, self.at)
        if start < 0:
            raise UnknownNetwork(f"no {name.decode()} where one should be")
        self.at = start + len(name)
        return self

    def integers(self, count):
        values = []
        for _ in range(count):
            head = self.data[self.at] if self.at < len(self.data) else 0
            end = self.at + 1 + (head & 15)
            value = int.from_bytes(self.data[self.at + 1 : end], "little")
            values.append(-value if head & 128 else value)
            self.at = end
        return values

    def number(self):
        mantissa, exponent = self.integers(2)
        return mantissa * 2.0**exponent

    def tensor(self):
        version, *shape = self.integers(5)
        size = int(np.prod(shape))
        if version != 2 or not 0 < size <= (len(self.data) - self.at) // 4:
            raise UnknownNetwork(f"a tensor of version {version} and shape {shape}")
        values = np.frombuffer(self.data, "<f4", size, self.at)
        self.at += 4 * size
        return values


def read_network(path):
    """Read a mmod_human_face_detector.dat: (side of the window, NMS overlap, mean RGB (3,), convolutions).

    convolutions: seven pairs (weights (O, I, k, k), bias (O,)) float32, batch normalisations folded in. Raises
    UnknownNetwork.
    """
    reader = _Reader(pathlib.Path(path).read_bytes())
    _, height, width = reader.find(b"loss_mmod_").integers(3)
    _, _, _, nms_overlap, nms_share = (reader.number() for _ in range(5))
    reader.find(b"input_rgb_image_pyramid")
    mean = np.array([reader.number() for _ in range(3)], np.float32)
    convolutions, channels = [], 3
    for number, stride in enumerate(STRIDES):
        values = reader.find(b"con_4").tensor()
        filters, rows, columns, *strides = reader.integers(5)
        if rows != columns or strides != [stride] * 2 or len(values) != filters * (channels * rows * columns + 1):
            raise UnknownNetwork(f"a convolution of {filters} filters {rows} x {columns}, strides {strides}")
        weights, bias = values[:-filters].reshape(filters, channels, rows, columns), values[-filters:]
        if number < len(STRIDES) - 1:
            gain = reader.find(b"bn_con2").tensor()
            reader.integers(10)  # the shapes of gain and offset
            _, _, running_mean, running_variance = (reader.tensor() for _ in range(4))
            scale = gain[:filters] / np.sqrt(running_variance + np.float32(EPSILON))
            weights, bias = weights * scale[:, None, None, None], (bias - running_mean) * scale + gain[filters:]
        convolutions.append((weights, bias))
        channels = filters
    if height != width or channels != 1 or nms_share < 1:
        raise UnknownNetwork(f"windows of {height} x {width}, {channels} kinds of them")
    return width, nms_overlap, mean, convolutions


class Detector:
    """Detects faces: (H, W, 3) RGB uint8 -> boxes (N, 4) float64 in pixels, the most certain first.

    Boxes are (top, bottom, left, right) of the first and the last pixel. Uses one core. Raises UnknownNetwork.
    """

    def __init__(self, path):
        ov = import_openvino()
        import openvino.opset13 as ops

        window, self.nms_overlap, self.mean, convolutions = read_network(path)
        self.reach = np.array([1 - window // 2, window // 2] * 2)  # from a window's middle to its first and last pixel
        x = canvas = ops.parameter([1, 3, -1, -1], np.float32)
        for number, ((weights, bias), stride) in enumerate(zip(convolutions, STRIDES, strict=True)):
            pad = [0, 0] if stride > 1 else [weights.shape[2] // 2] * 2
            x = ops.convolution(x, ops.constant(weights), [stride] * 2, pad, pad, [1, 1])
            x = ops.add(x, ops.constant(bias[None, :, None, None]))
            x = ops.relu(x) if number < len(STRIDES) - 1 else x
        settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = ov.compile_model(ov.Model([x], [canvas]), "CPU", settings)
        self.infer, self.release_memory = compiled.create_infer_request().infer, compiled.release_memory

    def __call__(self, image):
        canvas, places = tiled((image.astype(np.float32) - self.mean) / 256)
        scores = self.infer([np.ascontiguousarray(canvas.transpose(2, 0, 1)[None])])[0][0, 0]
        cells = np.argwhere(scores > 0)
        cells = cells[np.argsort(-scores[tuple(cells.T)], kind="stable")]
        boxes = []
        for y, x in cells * STRIDE + MIDDLE:
            level = min(range(len(places)), key=lambda n: _distance(places[n], y, x))
            middle = np.array([y, y, x, x]) - np.repeat(places[level][:2], 2)
            box = np.floor((middle + self.reach) / SHRINK**level + 0.5)
            if all(_overlap(box, other) <= self.nms_overlap for other in boxes):
                boxes.append(box)
        return np.array(boxes, np.float64).reshape(-1, 4)


def _distance(place, y, x):
    """Compute the squared distance of a pixel from a rectangle (top, left, rows, columns)."""
    top, left, rows, columns = place
    return max(top - y, 0, y - (top + rows - 1)) ** 2 + max(left - x, 0, x - (left + columns - 1)) ** 2


def _overlap(a, b):
    """Compute the intersection over union of two boxes; their last pixels are inclusive."""
    height, width = min(a[1], b[1]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[2], b[2]) + 1
    common = max(0, height) * max(0, width)
    area = sum((box[1] - box[0] + 1) * (box[3] - box[2] + 1) for box in (a, b))
    return common / (area - common)


def layout(height, width):
    """Compute the places [(top, left, rows, columns), ...] of the pyramid's levels, as dlib does, and the canvas' size.

    Levels fill a first column downwards; once the next fits beside the last, they go up again at the right edge.
    Returns (places, (height, width)).
    """
    sizes = [(height, width)]
    while True:
        rows, columns = (int(side * SHRINK) for side in sizes[-1])
        if rows * columns == 0 or rows < MIN_ROWS:
            break
        sizes.append((rows, columns))
    total = sum(rows + GAP for rows, _ in sizes) - 2 * GAP
    tall = beside = 0
    for rows, columns in sizes:
        if columns <= width - beside - GAP and (tall - height) * 2 >= total - height:
            break
        tall, beside = tall + rows + GAP, columns
    tall -= GAP
    places, y = [], BORDER
    for rows, columns in sizes:
        if y < tall + BORDER:
            places.append((y, BORDER, rows, columns))
            y += rows + GAP
    y -= GAP
    for rows, columns in sizes[len(places) :]:
        top, left = y - rows, BORDER + width - columns
        if top < BORDER + height:  # it would overlap the image itself
            break
        places.append((top, left, rows, columns))
        y -= rows + GAP
    return places, (tall + 2 * BORDER, width + 2 * BORDER)


def tiled(image):
    """Tile the pyramid of a float32 image (H, W, 3) on a canvas of zeros. Returns (canvas, places of `layout`)."""
    places, shape = layout(*image.shape[:2])
    canvas = np.zeros([-(-side // GRID) * GRID for side in shape] + [3], np.float32)
    for top, left, rows, columns in places:
        if image.shape[:2] != (rows, columns):  # each level is scaled from the one before, corner to corner
            down, across = ((a - 1) / max(b - 1, 1) for a, b in zip(image.shape, (rows, columns), strict=False))
            to = np.array([[across, 0, 0], [0, down, 0]])
            how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            image = cv2.warpAffine(image, to, (columns, rows), flags=how, borderMode=cv2.BORDER_REPLICATE)
        canvas[top : top + rows, left : left + columns] = image
    return canvas, places
