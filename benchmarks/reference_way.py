"""LipGAN's original inference, for bench_inference.py: run in its own process, so that start-up counts.

    python benchmarks/reference_way.py face.mp4 speech.wav folder/ --few 2

A reimplementation: Keras 2 on TensorFlow with `predict`, librosa, dlib's CNN on every whole frame, all frames in
memory, OpenCV's MPEG-4 and then H.264 (x264 medium, crf 23, ffmpeg's defaults). Prints seconds by phase as JSON.
"detect" is measured on `few` frames and extrapolated to all. "again", which is not part of the total, runs the
generator on all frames once more, when it is compiled.
"""

import argparse
import itertools
import json
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
FPS = 25


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("face", type=pathlib.Path, help="image or video of a face")
    parser.add_argument("audio", type=pathlib.Path, help="a wav file")
    parser.add_argument("folder", type=pathlib.Path, help="where the videos are written")
    parser.add_argument("--few", type=int, default=2, help="frames on which the detector is timed")
    return parser.parse_args(argv)


def main(argv=None):
    """Make the video and print the times."""
    args, began = parse_args(argv), time.perf_counter()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import cv2
    import dlib
    import librosa
    import numpy as np
    import tf_keras
    from helpers.legacy import legacy_generator

    from lipgan.faces import crop, detector
    from lipgan.media import video
    from lipgan.media.audio import mel_window, melspectrogram
    from lipgan.media.image import read_image

    times, last = {}, began

    def phase(name):
        nonlocal last
        times[name], last = time.perf_counter() - last, time.perf_counter()

    generator = legacy_generator(tf_keras, "residual", 1.0)
    network = dlib.cnn_face_detection_model_v1(str(detector.model_file("mmod_human_face_detector.dat")))
    phase("start")
    wav, _ = librosa.load(args.audio, sr=16_000)
    mel, num_frames = melspectrogram(wav), round(len(wav) / 16_000 * FPS)
    still = read_image(args.face)
    frames = [still] if still is not None else list(itertools.islice(video.read_frames(args.face), num_frames))
    phase("read")
    few = frames[: args.few]
    detections = [network(np.ascontiguousarray(frame[:, :, ::-1]), 0) for frame in few]
    phase("detect")
    times["detect"] *= len(frames) / len(few)
    rect = detections[0][0].rect  # for all frames: its place does not affect the time
    box = (max(0, rect.top()), rect.bottom(), max(0, rect.left()), rect.right())
    frames = [frames[k % len(frames)] for k in range(num_frames)]
    crops = np.stack([crop.crop(frame, box, 96) for frame in frames])
    mels = np.stack([mel_window(mel, k, FPS) for k in range(num_frames)])[..., None]
    inputs = [crop.generator_input(crops, crops), mels]
    faces = generator.predict(inputs, verbose=0)
    phase("generate")
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(args.folder / "result.avi"), cv2.VideoWriter_fourcc(*"DIVX"), FPS, (width, height))
    for frame, face in zip(frames, faces, strict=True):
        frame = frame.copy()
        size = box[3] - box[2], box[1] - box[0]
        frame[box[0] : box[1], box[2] : box[3]] = cv2.resize((face * 255).astype("uint8"), size)
        writer.write(frame)
    writer.release()
    video.PRESET = "medium"
    with video.VideoWriter(
        args.folder / "result.mp4", width, height, FPS, audio=args.audio, encoding=video.Encoding(crf=23)
    ) as whole:
        for frame in video.read_frames(args.folder / "result.avi"):
            whole.write(frame)
    phase("write")
    generator.predict(inputs, verbose=0)
    phase("again")
    print(json.dumps(times))


if __name__ == "__main__":
    main()
