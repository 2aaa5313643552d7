"""HDR to SDR: a look-up table from HLG or PQ in BT.2020 to BT.709, applied by FFmpeg's lut3d filter."""

import pathlib
import tempfile

import av
import numpy as np

PQ, HLG = 16, 18  # transfer functions, in the codes of ITU-T H.273
LUT_SIDE = 33  # both transfer functions are perceptual, so few steps are enough
WHITE_NITS = 203.0  # ITU-R BT.2408's reference white becomes about 85 % of SDR's signal; 1,000 nits become 100 %
PEAK_NITS = 1_000.0
KNEE = 0.5  # linear light relative to reference white up to which nothing is compressed
LUMA_2020 = np.array([0.2627, 0.6780, 0.0593])
TO_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])


def is_hdr(transfer: int) -> bool:
    """Return whether a transfer function, in the codes of ITU-T H.273, is one of HDR."""
    return transfer in (PQ, HLG)


def to_sdr(signal: np.ndarray, transfer: int) -> np.ndarray:
    """Tone-map R'G'B' (..., 3) in [0, 1] of an HDR video in BT.2020 to R'G'B' in [0, 1] of BT.709."""
    light = (_light_of_pq(signal) if transfer == PQ else _light_of_hlg(signal)) / WHITE_NITS
    largest = light.max(axis=-1, keepdims=True)  # one factor for all three keeps the hue
    light = light * (_compressed(largest) / np.maximum(largest, 1e-6))
    light = (light @ TO_709.T).clip(0, 1)
    return light ** (1 / 2.4)  # BT.1886, what a BT.709 display inverts


def _light_of_hlg(signal):
    """Return the light in nits of a display of PEAK_NITS: ITU-R BT.2100's inverse OETF and OOTF."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = scene @ LUMA_2020
    return PEAK_NITS * scene * np.maximum(luminance, 1e-6)[..., None] ** 0.2


def _light_of_pq(signal):
    """Return the light in nits: SMPTE ST 2084's EOTF."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    power = signal ** (1 / m2)
    return 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def _compressed(light):
    """Roll off highlights: linear up to KNEE, from there Reinhard's curve, which reaches 1 at PEAK_NITS."""
    over = np.maximum(light - KNEE, 0) / (1 - KNEE)
    peak = (PEAK_NITS / WHITE_NITS - KNEE) / (1 - KNEE)
    rolled = KNEE + (1 - KNEE) * over * (1 + over / peak**2) / (1 + over)
    return np.where(light <= KNEE, light, np.minimum(rolled, 1))


class ToneMapper:
    """Tone-maps decoded frames of one transfer function (PQ or HLG): RGB frames in, RGB frames out."""

    FORMAT = "gbrp10le"  # of what goes in, full range

    def __init__(self, transfer):
        steps = np.linspace(0, 1, LUT_SIDE)
        blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")  # red changes fastest in a .cube file
        table = to_sdr(np.stack([red, green, blue], -1), transfer).reshape(-1, 3)
        self._lines = [f"LUT_3D_SIZE {LUT_SIDE}", *(f"{r:.6f} {g:.6f} {b:.6f}" for r, g, b in table)]
        self._graph = self._shape = None

    def __call__(self, frame):
        """Return the frame (of FORMAT) in BT.709, of the same format."""
        if self._shape != (frame.width, frame.height):
            self._graph, self._shape = self._build(frame), (frame.width, frame.height)
        self._graph.push(frame)
        return self._graph.pull()

    def _build(self, frame):
        graph = av.filter.Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        )
        with tempfile.TemporaryDirectory(prefix="lipgan_") as folder:  # the filter reads it when it is configured
            cube = pathlib.Path(folder) / "hdr.cube"
            cube.write_text("\n".join(self._lines) + "\n")
            graph.link_nodes(source, graph.add("lut3d", file=str(cube)), graph.add("buffersink")).configure()
        return graph
