"""Work that goes on ahead of who waits for it, in threads; and frames kept on disk until they come again."""

import contextlib
import os
import queue
import tempfile
import threading
import time
from fractions import Fraction

import av


def ahead(items, size):
    """Yield what `items` yields, while a thread works up to `size` items ahead. Its errors are raised here.

    Closing this generator (or its end, or an error) ends the thread and closes `items`.
    """
    waiting, stop = queue.Queue(size), threading.Event()

    def put(*entry):
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                return waiting.put(entry, timeout=0.1)

    def work():
        try:
            for item in items:
                put(item, None)
                if stop.is_set():
                    break
            put(None, StopIteration)
        except BaseException as e:  # whatever it is, it belongs to who reads
            put(None, e)
        finally:
            if hasattr(items, "close"):
                items.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, end = waiting.get()
            if end is StopIteration:
                return
            if end is not None:
                raise end
            yield item
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def timed(seconds, phase):
    """Add the time that the block takes to seconds[phase]. A phase belongs to one thread."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start


class FrameStore:
    """Frames of one size in a temporary file without a name, each packed without loss, to be had back in any order.

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
