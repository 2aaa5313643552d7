"""Small audio and video files with known moments in them, which tests make for themselves."""

from fractions import Fraction

import av
import numpy as np

from lipgan.media import audio, video

RATES = [Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(50), Fraction(60)]
CODECS = {  # container: video codec, audio codec, Hz
    "mp4": ("libx264", "aac", 44_100),
    "mpg": ("mpeg2video", "mp2", 44_100),
    "mov": ("mpeg4", "pcm_s16le", 48_000),
    "webm": ("libvpx", "libopus", 48_000),
    "mkv": ("libx264", "libmp3lame", 44_100),
    "avi": ("libx264", "pcm_s16le", 16_000),
}


def write_flash(path, fps, flash, num_frames, start_s=0, delay_s=0, times=None):
    """Encode a grey video that is white for three frames from frame `flash` on, with a click at that moment.

    All timestamps begin at start_s; the audio begins delay_s after the video (before, where negative). times: the
    pts of each frame in units of 1 / fps, for a variable rate.
    """
    video_codec, audio_codec, rate = CODECS[path.suffix[1:]]
    times = times or range(num_frames)
    wav = np.zeros(round((float(num_frames / fps) - delay_s) * rate), np.float32)
    wav[round((float(times[flash] / fps) - delay_s) * rate) :][: rate // 100] = 0.8
    with av.open(str(path), "w") as container:
        images = container.add_stream(video_codec, fps)
        images.width, images.height, images.pix_fmt = 48, 32, "yuv420p"
        images.codec_context.time_base = 1 / fps
        images.options = {"deadline": "realtime", "cpu-used": "8"} if video_codec == "libvpx" else {}
        track = container.add_stream(audio_codec, rate)
        track.layout = "mono"
        at = 0
        for k, pts in enumerate(times):
            frame = grey(230 if flash <= k < flash + 3 else 60)
            frame.pts, frame.time_base = pts + round(start_s * fps), 1 / fps
            container.mux(images.encode(frame))
            until = len(wav) if k == len(times) - 1 else round(float(pts / fps) * rate)
            while at < min(until, len(wav)):
                frame = audio.as_frame(audio.Block(wav[None, at : at + 1024], rate, "mono"))
                frame.pts, frame.time_base = at + round((start_s + delay_s) * rate), Fraction(1, rate)
                container.mux(track.encode(frame))
                at += 1024
        container.mux(images.encode(None))
        container.mux(track.encode(None))


def grey(level, width=48, height=32):
    """Return a grey av.VideoFrame."""
    return av.VideoFrame.from_ndarray(np.full((height, width, 3), level, np.uint8), "bgr24")


def write_float_wav(path, wav, rate):
    """Write (n,) or (channels, n) float32 as 32-bit float wav."""
    wav = np.atleast_2d(wav)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate)
        stream.layout = audio.USUAL_LAYOUTS[len(wav)]
        frame = audio.as_frame(audio.Block(wav, rate, stream.layout.name))
        frame.pts, frame.time_base = 0, Fraction(1, rate)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def flash_and_click(path, fps=None):
    """Return (frame at which the video turns white, time of the click in seconds, number of frames)."""
    levels = [frame.mean() for frame in video.read_frames(path, fps)]
    click_s = np.flatnonzero(np.abs(audio.load_wav(path)) > 0.3)[0] / 16_000
    return next(k for k, level in enumerate(levels) if level > 145), click_s, len(levels)
