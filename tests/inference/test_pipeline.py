"""The pipeline of inference: every frame at its time, whatever the image, the video and the audio are."""

import dataclasses
import errno
import pathlib
import threading
import wave
from fractions import Fraction

import cv2
import numpy as np
import pytest
from helpers.runners import FunctionRunner, LipRunner

import lipgan
from audio_hparams import hparams
from lipgan.faces import detector, tracker
from lipgan.faces.landmarks import opening
from lipgan.inference import pipeline
from lipgan.inference.frame_cache import FrameStore
from lipgan.inference.options import LipsyncOptions
from lipgan.inference.pipeline import generate_frames, write_video
from lipgan.inference.preparation import load_audio, prepare
from lipgan.inference.source import open_source
from lipgan.media import video
from lipgan.media.audio import load_wav
from lipgan.utils.cli import UserError, collected_notes

RATES = (24, 25, Fraction(30000, 1001), 30, 50, 60)
BOX = (8, 56, 8, 56)


def prepared(face, audio, boxes=BOX, **options):
    """The Clip of a face whose boxes are known."""
    options = LipsyncOptions(**options)
    return prepare(open_source(face, options), load_audio(audio, options, face), options, boxes=boxes)


def write(face, audio, out, function, boxes=BOX, batch_size=8, **options):
    """Write the video of a function in a generator's place."""
    clip = prepared(face, audio, boxes, **options)
    return write_video(clip, out, FunctionRunner(function, batch_size=batch_size), LipsyncOptions(**options))


def frames_of(clip, function, batch_size=8, **options):
    """Yield (frame, has_face) of a function in a generator's place."""
    return generate_frames(clip, FunctionRunner(function, batch_size=batch_size), LipsyncOptions(**options))


def loudness(faces, mels):
    """A generator whose image is as bright as the middle of the window is loud."""
    middle = mels[:, :, hparams.mel_window // 2, 0].mean(axis=1)
    level = np.clip((middle + 4) / 5, 0, 1)[:, None, None, None]
    return np.broadcast_to(level, (*faces.shape[:3], 3)).astype(np.float32)


def white(faces, mels):
    """A generator whose image cannot be mistaken for the source's."""
    return np.ones((*faces.shape[:3], 3), np.float32)


def write_wav(path, samples):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def clicks(path, seconds, times):
    samples = np.zeros(round(seconds * 16_000))
    samples[[round(float(t) * 16_000) for t in times]] = 1
    return write_wav(path, samples)


def tone(path, seconds):
    return write_wav(path, 0.3 * np.sin(np.arange(round(seconds * 16_000)) * 0.2))


def still(path, height=64, width=64, level=100):
    cv2.imwrite(str(path), np.full((height, width, 3), level, np.uint8))
    return path


def moving(path, num_frames, fps=25, height=64, width=64):
    """A video whose frame k is 40 + 5 k grey levels bright (of 40 to 200, to and fro)."""
    with video.VideoWriter(path, width, height, fps) as writer:
        for k in range(num_frames):
            writer.write(np.full((height, width, 3), level(k), np.uint8))
    return path


def level(k):
    return 40 + 5 * (32 - abs(k % 64 - 32))


def num_threads():
    """Those of ours: tqdm keeps one of its own."""
    return sum(thread.name != "tqdm_monitor" for thread in threading.enumerate())


def brightness(path):
    """The mean of the part that the generator paints, for each frame."""
    return np.array([frame[40:50, 24:40].mean() for frame in video.read_frames(path)])


@pytest.mark.parametrize("fps", RATES, ids=float)
@pytest.mark.parametrize("kind", ["still", "video"])
def test_image_flashes_where_the_audio_clicks(tmp_path, kind, fps):
    num_frames = 30
    at = [0, 1, num_frames // 2, num_frames - 2, num_frames - 1]
    frames = [at[0], at[2], at[4]] if kind == "still" else [at[1], at[2], at[3]]
    sound = clicks(tmp_path / "clicks.wav", num_frames / fps, [(f + Fraction(1, 2)) / fps for f in frames])
    if kind == "still":
        face = still(tmp_path / "face.png")
    else:
        with video.VideoWriter(tmp_path / "face.mp4", 64, 64, fps) as writer:
            for _ in range(num_frames):
                writer.write(np.full((64, 64, 3), 100, np.uint8))
        face = tmp_path / "face.mp4"
    result = write(face, sound, tmp_path / "out.mp4", loudness, fps=fps)
    shown = brightness(result.path)
    assert len(shown) == num_frames
    assert video.probe(result.path).fps == fps
    for frame in frames:
        near = shown[max(0, frame - 3) : frame + 4]
        assert near.argmax() + max(0, frame - 3) == frame  # the click lies in the middle of this frame's time
        assert near.max() > near.min() + 30


@pytest.mark.parametrize("fps", [24, 25, Fraction(30000, 1001), 7, 59.5])
@pytest.mark.parametrize("seconds", [0.001, 0.31, 1.017])
def test_result_has_as_many_frames_as_the_audio_lasts(tmp_path, fps, seconds):
    sound = tone(tmp_path / "tone.wav", seconds)
    result = write(still(tmp_path / "a.png"), sound, tmp_path / "out.mp4", loudness, fps=fps)
    expected = max(1, round(round(seconds * 16_000) / 16_000 * float(fps)))
    assert result.num_frames == expected == len(list(video.read_frames(result.path)))


def test_max_sec_limits_the_audio(tmp_path):
    sound = tone(tmp_path / "tone.wav", 2)
    out = tmp_path / "out.mp4"
    write(still(tmp_path / "a.png"), sound, out, loudness, max_sec=0.6)
    assert video.probe(out).num_frames == 15
    assert len(load_wav(out)) / 16_000 == pytest.approx(0.6, abs=0.07)  # an AAC frame of 1,024 samples more


def test_short_video_is_played_to_and_fro(tmp_path):
    face, sound = moving(tmp_path / "face.mp4", 7), tone(tmp_path / "tone.wav", 1)
    clip = prepared(face, sound)
    clip.track.found[:] = False
    sources = list(video.read_frames(face))
    shown = [frame for frame, _ in frames_of(clip, loudness, batch_size=4)]
    expected = [0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1, 0]
    assert len(shown) == 25
    for frame, index in zip(shown, expected, strict=True):
        assert (frame == sources[index]).all()


@pytest.mark.parametrize(("num_frames", "seconds"), [(1, 0.2), (2, 0.2), (5, 0.24), (5, 0.2), (5, 0.12)])
def test_video_of_any_length_fits_the_audio(tmp_path, num_frames, seconds):
    face, sound = moving(tmp_path / "face.mp4", num_frames), tone(tmp_path / "tone.wav", seconds)
    result = write(face, sound, tmp_path / "out.mp4", loudness, batch_size=2)
    assert len(list(video.read_frames(result.path))) == round(seconds * 25)


def test_no_more_of_a_video_is_decoded_than_the_audio_needs(tmp_path, monkeypatch):
    face, sound = moving(tmp_path / "face.mp4", 40), tone(tmp_path / "tone.wav", 0.2)
    read, read_frames = [], video.read_frames

    def counted(*args, **options):
        for frame in read_frames(*args, **options):
            read.append(1)
            yield frame

    monkeypatch.setattr(video, "read_frames", counted)
    list(frames_of(prepared(face, sound), loudness))
    assert len(read) == 2 * 5  # once for the face, once for the frames


def test_frames_without_a_face_are_unchanged_and_counted(tmp_path):
    face, sound = moving(tmp_path / "face.mp4", 12), tone(tmp_path / "tone.wav", 12 / 25)
    boxes = np.array([BOX] * 12)
    boxes[3:8] = 0
    clip = prepared(face, sound, boxes=boxes)
    shown = list(frames_of(clip, white, batch_size=2))
    for k, ((frame, has_face), source) in enumerate(zip(shown, video.read_frames(face), strict=True)):
        assert has_face == (not 3 <= k < 8)
        assert (frame == source).all() == (not has_face)
    assert write(face, sound, tmp_path / "o.mp4", loudness, boxes=boxes).num_without_face == 5


def test_only_the_lower_half_of_the_box_changes(tmp_path):
    clip = prepared(still(tmp_path / "a.png"), tone(tmp_path / "tone.wav", 0.04))
    frame, _ = next(frames_of(clip, white))
    changed = (frame != 100).any(axis=2)
    assert changed[40:50, 24:40].all()
    changed[32:56, 8:56] = False
    assert not changed.any()


def test_odd_size_is_padded_in_the_file_only(tmp_path):
    face, sound = still(tmp_path / "a.png", 65, 67), tone(tmp_path / "tone.wav", 0.2)
    frame, _ = next(frames_of(prepared(face, sound), loudness))
    assert frame.shape == (65, 67, 3)
    write(face, sound, tmp_path / "out.mp4", loudness)
    info = video.probe(tmp_path / "out.mp4")
    assert (info.width, info.height) == (68, 66)


def test_static_uses_the_first_frame_of_a_video(tmp_path):
    face, sound = moving(tmp_path / "face.mp4", 12, fps=30), tone(tmp_path / "tone.wav", 0.5)
    clip = prepared(face, sound, static=True)
    assert (clip.source.fps, clip.num_frames) == (30, 15)
    first = next(video.read_frames(face))
    for frame, _ in frames_of(clip, loudness):
        assert (frame[:30] == first[:30]).all()


def test_positive_sync_offset_uses_later_audio(tmp_path):
    sound = clicks(tmp_path / "click.wav", 1, [12.5 / 25])
    clip = prepared(still(tmp_path / "a.png"), sound)
    for offset_ms, flash in ((0, 12), (80, 10), (-120, 15)):
        frames = [f[40:50, 24:40].mean() for f, _ in frames_of(clip, loudness, sync_offset_ms=offset_ms)]
        assert int(np.argmax(frames)) == flash


@pytest.mark.usefixtures("eager_steps")
@pytest.mark.parametrize("kind", [pytest.param("residual", marks=pytest.mark.slow), "basic"])
def test_still_image_is_encoded_once_with_the_output_of_the_whole_network(kind):
    import keras  # loaded for this test only

    from generator import build_generator
    from lipgan.inference.runner import GeneratorRunner

    if keras.config.backend() == "openvino":
        pytest.skip("OpenVINO may compute in bfloat16, which an untrained network blows up")
    keras.utils.set_random_seed(0)
    model = build_generator(kind, width=1 / 64)
    for weights in model.weights:
        if weights.path.endswith("kernel"):
            weights.assign(1.4 * weights)  # as it is made, the sound hardly changes its picture
    runner = GeneratorRunner(model, batch_size=4)
    faces = np.repeat(np.random.default_rng(0).random((1, 96, 96, 6), dtype="float32"), 6, axis=0)
    audio = np.random.default_rng(1).uniform(-4, 4, (6, 80, 27, 1)).astype("float32")
    whole, once = (runner.reset(still).predict(faces, audio) for still in (False, True))
    np.testing.assert_allclose(once, whole, atol=1e-5)
    assert np.abs(once[0] - once[5]).max() > 5e-5  # untrained, the audio hardly changes the image
    assert whole.shape == (6, 96, 96, 3)  # of batches of 4


def test_frame_store_is_lossless_in_any_order():
    rng = np.random.default_rng(0)
    for shape in ((37, 51, 3), (2, 2, 3), (64, 64, 3)):
        frames = [rng.integers(0, 256, shape, np.uint8) for _ in range(4)]
        with FrameStore() as store:
            for k, frame in enumerate(frames):
                store.put(k, frame)
            for k in (3, 1, 1, 0, 2):
                assert (store.get(k) == frames[k]).all()


def test_unknown_reference_mode_is_refused():
    with pytest.raises(UserError, match="'typo' is none of fitted, same"):
        LipsyncOptions(reference="typo")


def test_stretch_without_a_decodable_frame_raises_user_error(tmp_path, monkeypatch):
    face, sound = moving(tmp_path / "face.mp4", 9), tone(tmp_path / "tone.wav", 0.1)
    monkeypatch.setattr(video, "read_frames", lambda *_: (frame for frame in ()))
    for options in ({"static": True}, {"start": 0.2}):
        with pytest.raises(UserError, match=r"no frame of .*face.mp4 can be decoded from --start"):
            prepared(face, sound, **options)


@pytest.mark.parametrize("kind", ["still", "video"])
def test_failing_generator_leaves_no_file_and_no_thread(tmp_path, kind):
    face = still(tmp_path / "a.png") if kind == "still" else moving(tmp_path / "a.mp4", 9)
    sound, threads, calls = tone(tmp_path / "tone.wav", 4), num_threads(), []

    def generator(faces, mels):
        calls.append(1)
        if len(calls) == 3:
            raise ZeroDivisionError("on purpose")
        return loudness(faces, mels)

    before = set(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError):
        write(face, sound, tmp_path / "out.mp4", generator, preview=True)
    assert set(tmp_path.iterdir()) == before
    assert num_threads() == threads


def test_preview_that_cannot_be_written_leaves_no_video(tmp_path, monkeypatch):
    face, sound = still(tmp_path / "a.png"), tone(tmp_path / "tone.wav", 0.2)
    before = set(tmp_path.iterdir())

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write(face, sound, tmp_path / "out.mp4", loudness, preview=True)
    assert set(tmp_path.iterdir()) == before


def test_closing_the_frames_early_ends_the_threads(tmp_path):
    threads = num_threads()
    frames = frames_of(prepared(still(tmp_path / "a.png"), tone(tmp_path / "t.wav", 4)), loudness)
    next(frames)
    frames.close()
    assert num_threads() == threads


def test_no_face_in_given_boxes_raises_user_error_with_the_number_of_frames(tmp_path):
    face, sound = moving(tmp_path / "face.mp4", 5), tone(tmp_path / "tone.wav", 1)
    with pytest.raises(UserError, match=r"no face found in any of the 5 frames of .*face\.mp4"):
        prepared(face, sound, boxes=np.zeros((5, 4)))


def test_box_outside_of_the_frame_raises_user_error(tmp_path):
    with pytest.raises(UserError, match="outside"):
        prepared(still(tmp_path / "a.png"), tone(tmp_path / "tone.wav", 0.2), boxes=(100, 150, 8, 56))


def test_silence_gate_replaces_the_audio_of_a_pause(tmp_path):
    rng = np.random.default_rng(0)
    speech, noise = 0.5 * np.sin(np.arange(16_000) * 0.2), 0.0005 * rng.standard_normal(48_000)
    sound = write_wav(tmp_path / "pause.wav", np.concatenate([speech, np.zeros(16_000), speech]) + noise)
    clip = prepared(still(tmp_path / "face.png"), sound)
    gated, open_ = ([f[40:50, 24:40].mean() for f, _ in frames_of(clip, loudness, silence_gate=gate)]
                    for gate in (None, False))  # fmt: skip
    assert np.ptp(gated[30:45]) == 0 and np.mean(gated[30:45]) < np.mean(open_[30:45]) - 5
    assert gated[:24] == open_[:24] and gated[51:] == open_[51:]


def test_paste_gets_the_landmarks_of_the_track(tmp_path, astronaut, hog, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.png"), astronaut)
    options = LipsyncOptions(detector="hog")
    source = open_source(tmp_path / "a.png", options)
    clip = prepare(source, load_audio(tone(tmp_path / "tone.wav", 0.04), options), options)
    pasted, paste_back = [], pipeline.paste_back
    monkeypatch.setattr(pipeline, "paste_back", lambda *args: pasted.append(args[2:]) or paste_back(*args))
    list(frames_of(clip, white))
    top, bottom, left, right = clip.track.boxes[0]
    square = (top, top + (bottom - top) / (1 + hparams.crop_lengthen), left, right)
    (local_box, points), start = pasted[0], clip.track.boxes[0][[2, 0]]
    assert np.abs(points - local_box[[2, 0]] + start - hog.landmarks(astronaut, square)).max() < 5


@pytest.mark.slow
def test_smile_stays_in_a_pause_and_disappears_when_neutral(tmp_path, astronaut):
    cv2.imwrite(str(tmp_path / "a.png"), astronaut)
    pause = write_wav(tmp_path / "pause.wav", np.zeros(8_000))
    results = {}
    for expression in (None, "neutral", 0.5):
        options = LipsyncOptions(detector="hog", expression=expression)
        clip = prepare(open_source(tmp_path / "a.png", options), load_audio(pause, options), options)
        runner = LipRunner(opening=0.005)
        frames = [frame for frame, _ in generate_frames(clip, runner, options)]
        results[expression] = frames[-1], runner.rest_lips[-1].reshape(20, 2)
    np.testing.assert_array_equal(results[None][0], astronaut)
    assert (results["neutral"][0] != astronaut).any() and (results[0.5][0] != astronaut).any()
    smile, shut, half = (results[name][1] for name in (None, "neutral", 0.5))
    assert opening(smile) > 4 * opening(shut)
    np.testing.assert_allclose(half, (smile + shut) / 2, atol=1e-5)


def test_expression_is_a_still_images_only(tmp_path, astronaut):
    smiling = tmp_path / "v.mp4"
    with video.VideoWriter(smiling, 256, 256, 25) as writer:
        for _ in range(3):
            writer.write(astronaut)
    tone(tmp_path / "a.wav", 0.1)
    rest = []
    for expression in ("keep", "neutral"):
        options = LipsyncOptions(detector="hog", expression=expression)
        clip = prepare(open_source(smiling, options), load_audio(tmp_path / "a.wav", options), options)
        runner = LipRunner()
        list(generate_frames(clip, runner, options))
        rest.append(runner.rest_lips)
    np.testing.assert_array_equal(*rest)


@pytest.mark.parametrize(("own", "factor"), [(None, 0.75), (0.03, 1.5), (0.008, 0.7625)])
def test_lips_move_as_far_as_the_persons_own(tmp_path, astronaut, own, factor):
    cv2.imwrite(str(tmp_path / "face.png"), astronaut)
    tone(tmp_path / "a.wav", 2.0)
    for option in (1.0, 2.0):
        options = LipsyncOptions(detector="hog", motion_gain=option, max_sec=1.2)
        clip = prepare(open_source(tmp_path / "face.png", options), load_audio(tmp_path / "a.wav", options), options)
        runner = LipRunner()
        next(generate_frames(dataclasses.replace(clip, own_deviation=own), runner, options))
        assert runner.motion_gains[0] == pytest.approx(option * factor, rel=1e-3)


def test_motion_gain_of_a_generator_that_moves_no_lips_is_noted(tmp_path, astronaut):
    cv2.imwrite(str(tmp_path / "face.png"), astronaut)
    tone(tmp_path / "a.wav", 0.2)
    options = LipsyncOptions(detector="hog", motion_gain=2.0)
    clip = prepare(open_source(tmp_path / "face.png", options), load_audio(tmp_path / "a.wav", options), options)
    with collected_notes() as notes:
        next(generate_frames(clip, FunctionRunner(lambda faces, audio: faces[..., 3:]), options))
    assert "--motion_gain 2 has no effect" in notes[0]


@pytest.mark.parametrize("expression", ["happy", 1.5, "-1"])
def test_unknown_expression_is_refused(expression):
    with pytest.raises(UserError, match="give keep, neutral or a number from 0 to 1"):
        LipsyncOptions(expression=expression)


def test_covered_frames_keep_their_pixels_and_are_counted(tmp_path):
    face, sound = moving(tmp_path / "face.mp4", 8), tone(tmp_path / "tone.wav", 0.4)
    clip = prepared(face, sound)
    clip = dataclasses.replace(clip, covered=np.float32([0, 0, 0.5, 1, 1, 0, 0, 0]))
    source = list(clip.source.frames())
    changed = [frame.astype(int) - source[clip.frame_index(k)] for k, (frame, _) in enumerate(frames_of(clip, white))]
    middle = [np.abs(difference[40:50, 24:40]).mean() for difference in changed]
    assert middle[3] == middle[4] == 0 and all(middle[k] > 20 for k in (0, 1, 5, 6, 7))
    assert 0.3 < middle[2] / middle[1] < 0.7
    result = write_video(clip, tmp_path / "out.mp4", FunctionRunner(white), LipsyncOptions())
    assert (result.num_frames, result.num_covered, result.num_without_face) == (10, 3, 0)


def test_gaps_of_up_to_five_frames_are_bridged():
    square, points = np.array([10.0, 50, 10, 50]), np.zeros((68, 2), np.float32)
    found = [detector.Face(square + n, points + n) if n in (0, 6, 13, 14, 16) else None for n in range(20)]
    bridged = tracker._bridged(found, [0, 15], 5)
    assert [s is not None for s in bridged] == [n <= 6 or n in (13, 14, 16) for n in range(20)]
    np.testing.assert_allclose(bridged[3].square, square + 3)
    np.testing.assert_allclose(bridged[3].points, points + 3)


def test_start_end_resize_and_side_by_side(tmp_path):
    face, sound = moving(tmp_path / "face.mp4", 20), tone(tmp_path / "tone.wav", 0.4)
    out, box = tmp_path / "out.mp4", (4, 28, 4, 28)
    options = {"start": 0.2, "end": 0.48, "resize_factor": 2, "side_by_side": True, "lossless": True}
    write(face, sound, out, white, boxes=box, **options)
    frames = list(video.read_frames(out))
    assert len(frames) == 10 and frames[0].shape == (32, 64, 3)
    order = [5, 6, 7, 8, 9, 10, 11, 10, 9, 8]  # to the end of the stretch, and back
    assert [abs(frame[:, :32].mean() - level(k)) < 3 for frame, k in zip(frames, order, strict=True)] == [True] * 10
    assert all(frame[20:24, 44:52].mean() > frame[20:24, 12:20].mean() + 10 for frame in frames)


@pytest.mark.parametrize(
    ("fps", "order"), [(50, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]), (12.5, [0, 2, 4, 6, 8]), (25, [*range(10)])]
)
def test_video_is_resampled_by_time(tmp_path, fps, order):
    face, sound = moving(tmp_path / "face.mp4", 10), tone(tmp_path / "tone.wav", len(order) / fps)
    clip = prepared(face, sound, fps=fps)
    assert (clip.source.fps, clip.num_frames, len(clip.track.found)) == (fps, len(order), len(order))
    clip.track.found[:] = False
    shown = [frame for frame, _ in frames_of(clip, loudness)]
    assert [abs(frame.mean() - level(k)) < 2.5 for frame, k in zip(shown, order, strict=True)] == [True] * len(order)


def test_stretch_outside_of_the_video_raises_user_error(tmp_path):
    face, sound = moving(tmp_path / "face.mp4", 20), tone(tmp_path / "tone.wav", 0.4)
    for stretch in ({"start": 2.0}, {"start": 0.5, "end": 0.2}):
        with pytest.raises(UserError, match=r"--start .* lasts 0\.80 s"):
            prepared(face, sound, **stretch)


def test_lipsync_reports_progress_and_returns_what_was_written(tmp_path):
    face, sound, calls = moving(tmp_path / "face.mp4", 5), tone(tmp_path / "tone.wav", 0.2), []
    options = LipsyncOptions(face_box=BOX, detector="hog", box_cache=False)  # no face: the box itself is used
    runner = FunctionRunner(white)
    result = lipgan.lipsync(face, sound, tmp_path / "out.mp4", runner, options, lambda *call: calls.append(call))
    assert (result.path, result.num_frames, result.num_without_face) == (tmp_path / "out.mp4", 5, 0)
    assert (result.width, result.height, result.fps) == (64, 64, 25)
    assert calls == [(n, 5, "frames") for n in range(1, 6)]
    frames = [frame for frame, _ in lipgan.lipsync_frames(face, sound, runner, options)]
    assert len(frames) == 5 and frames[0].shape == (64, 64, 3)


def test_video_without_any_face_raises_user_error(tmp_path):
    options = LipsyncOptions(detector="hog")
    source = open_source(moving(tmp_path / "face.mp4", 3), options)
    with pytest.raises(UserError, match=r"no face found in any of the 3 frames of .*detector hog"):
        prepare(source, load_audio(tone(tmp_path / "tone.wav", 0.2), options), options)
