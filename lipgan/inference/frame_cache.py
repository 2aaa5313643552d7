"""Frame cache: frames stored losslessly on disk until they are shown again."""

import os
import tempfile
from fractions import Fraction

import av


class FrameStore:
    """Stores frames of one size in an unnamed temporary file, losslessly compressed, and reads them in any order.

    Measured at 1280x720: 11 ms to pack and 5 ms to unpack a frame, 0.8 MB on disk (0.5 GB for 25 s at 25 fps).
    """

    def __init__(self, folder=None):
        self.file, self.places = tempfile.TemporaryFile(dir=folder), {}  # noqa: SIM115 (closed by __exit__)
        self.packer = self.unpacker = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def put(self, index, frame):
        """Store a frame, (H, W, 3) BGR uint8, under a number."""
        if self.packer is None:
            self.packer = self._codec(frame, "w")
            self.packer.open()
        picture = av.VideoFrame.from_ndarray(frame, format="bgr24").reformat(format=self.packer.pix_fmt)
        (packet,) = self.packer.encode(picture)
        self.places[index] = (self.file.seek(0, os.SEEK_END), self.file.write(bytes(packet)))
        if self.unpacker is None:
            self.unpacker = self._codec(frame, "r")
            self.unpacker.extradata = self.packer.extradata

    def get(self, index):
        """Return the frame that was stored under this number."""
        start, size = self.places[index]
        self.file.seek(start)
        (picture,) = self.unpacker.decode(av.Packet(self.file.read(size)))
        return picture.to_ndarray(format="bgr24")

    @staticmethod
    def _codec(frame, mode):
        codec = av.CodecContext.create("magicyuv", mode)  # every packet is one whole frame
        codec.height, codec.width = frame.shape[:2]
        codec.pix_fmt, codec.thread_count = "gbrp", 1
        if mode == "w":
            codec.time_base = Fraction(1, 25)  # it asks for one, and keeps none
        return codec
