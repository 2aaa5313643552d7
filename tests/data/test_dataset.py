"""Clips are written atomically, listed, indexed with their reasons, and read as reproducible batches."""

import collections
import itertools
import time
import wave

import numpy as np
import pytest
from helpers.clips import SIZE, numbered_crop, numbered_mel, write

from audio_hparams import hparams
from lipgan.data import augment, clip_folder, dataset, filelists, index
from lipgan.media import audio
from lipgan.utils.cli import UserError


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    return [write(root, f"main/a/{clip}", clip, num_frames=40 + clip) for clip in range(6)]


@pytest.fixture(scope="module")
def faces(clips):
    return dataset.FaceDataset(clips, SIZE, mel_dtype="float32")


def read_back(batch):
    """(clip, frame) of each reference, of each target and of each wrong window, and each window's middle."""
    pictures = {name: batch[name].mean((1, 2)) for name in ("reference", "target")}
    named = {name: [(round(p[2] / 20), round(p[0] / 4)) for p in means] for name, means in pictures.items()}
    middle = hparams.mel_window // 2
    named["mel"] = [(int(m[0, 0, 0]), int(m[1, middle, 0])) for m in batch["mel"]]
    named["wrong_mel"] = [(int(m[0, 0, 0]), int(m[1, middle, 0])) for m in batch["wrong_mel"]]
    return named


def test_clip_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (3, 1, 1, 3)).repeat(SIZE, 1).repeat(SIZE, 2).astype("uint8")
    mel, wav = rng.normal(size=(80, 50)).astype("float32"), rng.uniform(-1, 1, 16_000).astype("float32")
    boxes = np.arange(12).reshape(3, 4)
    clip_folder.write_clip(tmp_path / "main/a/1", iter(crops), [0, 2, 5], boxes, mel, wav)
    assert sorted(p.name for p in (tmp_path / "main/a/1").iterdir()) == [
        "0.jpg",
        "2.jpg",
        "5.jpg",
        "audio.wav",
        "mels.npz",
    ]
    with np.load(tmp_path / "main/a/1/mels.npz", allow_pickle=False) as arrays:
        assert arrays["spec"].dtype == np.float32 and (arrays["spec"] == mel).all()
        assert arrays["fps"] == 25
        assert arrays["frame_ids"].dtype == np.int32 and arrays["frame_ids"].tolist() == [0, 2, 5]
        assert arrays["boxes"].dtype == np.int32 and (arrays["boxes"] == boxes).all()
    with wave.open(str(tmp_path / "main/a/1/audio.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        samples = np.frombuffer(file.readframes(99_999), "<i2") / 32767
    assert np.abs(samples - wav).max() <= 0.5 / 32767 + 1e-7


def test_crops_keep_their_colours(tmp_path):
    rng = np.random.default_rng(1)
    crop = rng.integers(0, 256, (8, 8, 3), "uint8").repeat(4, 0).repeat(4, 1)  # red next to blue, 4 pixels each
    clip_folder.write_clip(tmp_path / "c", [crop] * 40, range(40), np.zeros((40, 4)), numbered_mel(0, 40), np.zeros(9))
    read = dataset.FaceDataset([tmp_path / "c"], SIZE).read_crop(0, 7)
    assert np.abs(read.astype(int) - crop).mean() < 4


def test_failed_clip_leaves_no_files(tmp_path):
    def crops():
        yield numbered_crop(0, 0)
        raise UserError("the video ends here")

    with pytest.raises(UserError):
        clip_folder.write_clip(tmp_path / "a/1", crops(), [0, 1], np.zeros((2, 4)), numbered_mel(0, 9), np.zeros(9))
    assert list((tmp_path / "a").iterdir()) == []


def test_clip_with_unequal_numbers_of_crops_and_boxes_is_refused(tmp_path):
    for crops, frames, boxes in ((1, 2, 2), (3, 2, 2), (2, 2, 1), (0, 0, 0)):
        with pytest.raises(ValueError):
            clip_folder.write_clip(
                tmp_path / "a",
                [numbered_crop(0, 0)] * crops,
                range(frames),
                np.zeros((boxes, 4)),
                np.zeros((80, 9)),
                [],
            )
    assert list(tmp_path.iterdir()) == []


def test_only_the_first_column_of_a_file_list_counts(tmp_path):
    (tmp_path / "test.txt").write_bytes(b"\xef\xbb\xbfa/1 NF\r\n\r\n  \na/2\tMV\na/1 NF\nb-c/00003\n")
    assert filelists.read_filelist(tmp_path / "test.txt") == ["a/1", "a/2", "b-c/00003"]


@pytest.mark.parametrize("line", ["a", "a/b/c", "../a", "a/..", "/a", "a/"])
def test_a_malformed_line_of_a_file_list_is_named(tmp_path, line):
    (tmp_path / "val.txt").write_text(f"a/1\n{line}\n")
    with pytest.raises(UserError, match="is not <speaker>/<clip>"):
        filelists.read_filelist(tmp_path / "val.txt")


def test_a_missing_or_binary_file_list_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no file list"):
        filelists.read_filelist(tmp_path / "val.txt")
    (tmp_path / "val.txt").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match="not a text file"):
        filelists.read_filelist(tmp_path / "val.txt")


@pytest.fixture
def lrs2(tmp_path):
    """Empty preprocessed clips in LRS2's folders (only their existence is asked for)."""
    for name in ("main/a/1", "main/a/2", "main/b/1", "pretrain/p/1", "pretrain/p/2"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "mels.npz").touch()
    (tmp_path / "lists").mkdir()
    return tmp_path


def names(root, found):
    return [path.relative_to(root / "data").as_posix() for path in found]


def test_train_includes_the_pretrain_clips(lrs2):
    for split, text in {"train": "a/1\n", "val": "a/2\n", "test": "b/1 NF\n", "pretrain": "p/2\n"}.items():
        (lrs2 / "lists" / f"{split}.txt").write_text(text)
    found = {split: filelists.find_clips(lrs2 / "data", split, lrs2 / "lists") for split in filelists.SPLITS}
    assert names(lrs2, found["train"][0]) == ["main/a/1", "pretrain/p/2"]
    assert names(lrs2, found["pretrain"][0]) == ["pretrain/p/2"]
    assert names(lrs2, found["val"][0]) == ["main/a/2"]
    assert names(lrs2, found["test"][0]) == ["main/b/1"]
    assert not any(notes for _, notes in found.values())


def test_missing_file_list_uses_all_clips_with_a_warning(lrs2, monkeypatch):
    found, notes = filelists.find_clips(lrs2 / "data", "val", lrs2)
    assert names(lrs2, found) == ["main/a/1", "main/a/2", "main/b/1"]
    assert len(notes) == 1 and "ALL 3 clips" in notes[0] and "val.txt" in notes[0]
    monkeypatch.chdir(lrs2)  # where there is no filelists/
    found, notes = filelists.find_clips(lrs2 / "data", "train", "filelists/")
    assert len(found) == 5 and len(notes) == 2


def test_a_filelists_folder_that_does_not_exist_is_a_user_error(lrs2):
    with pytest.raises(UserError, match=r"--filelists .*absent is not a folder; give the one that holds train\.txt"):
        filelists.find_clips(lrs2 / "data", "train", lrs2 / "absent")


def test_missing_listed_clips_are_reported(lrs2):
    (lrs2 / "lists/val.txt").write_text("a/1\na/9\nz/1\n")
    found, notes = filelists.find_clips(lrs2 / "data", "val", lrs2 / "lists")
    assert names(lrs2, found) == ["main/a/1"]
    assert len(notes) == 1 and "2 of the 3" in notes[0] and "a/9" in notes[0]


def test_a_folder_without_clips_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"no preprocessed clips in .*preprocess\.py"):
        filelists.find_clips(tmp_path, "train", tmp_path)


def test_settings_are_read_back_and_differences_named(tmp_path):
    assert clip_folder.read_settings(tmp_path) == {}
    clip_folder.write_settings(tmp_path, {"img_size": 96, "hparams": hparams.as_dict() | {"hop_size": 160}})
    settings = clip_folder.read_settings(tmp_path)
    assert clip_folder.setting_differences(settings, img_size=96, detector="cnn") == ["hop_size: here 200, there 160"]
    assert clip_folder.setting_differences(settings, img_size=128)[0] == "img_size: here 128, there 96"
    (tmp_path / "preprocess.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        clip_folder.read_settings(tmp_path)


def test_inside_frames_have_complete_mel_windows():
    for num_mels in (0, 26, 27, 40, 97, 241, 1000):
        inside = index.inside_frames(num_mels)
        mel = np.zeros((80, num_mels), "float32")  # silence is -4, so zeros show what was filled in
        whole = [f for f in range(num_mels // 3 + 2) if (audio.mel_window(mel, f, hparams.fps) == 0).all()]
        assert list(inside) == whole


def test_samples_match_their_frames_and_windows(clips, faces):
    seen = collections.Counter()
    for number in range(40):
        batch = faces.batch((7, 0, number), 16)
        assert {k: (v.dtype.name, v.shape) for k, v in batch.items()} == {
            "reference": ("uint8", (16, SIZE, SIZE, 3)),
            "target": ("uint8", (16, SIZE, SIZE, 3)),
            "mel": ("float32", (16, 80, 27, 1)),
            "wrong_mel": ("float32", (16, 80, 27, 1)),
        }
        named = read_back(batch)
        for (clip, frame), reference, mel, wrong in zip(
            *(named[k] for k in ("target", "reference", "mel", "wrong_mel")), strict=True
        ):
            assert reference[0] == clip and abs(reference[1] - frame) >= hparams.min_reference_gap
            right = hparams.mel_start(frame, 25) + 13
            assert mel == (clip, right)
            if wrong[0] == clip:
                assert abs(wrong[1] - right) >= 3.2 * hparams.min_wrong_gap - 1
            seen["same clip" if wrong[0] == clip else "other clip"] += 1
    assert abs(seen["same clip"] / seen.total() - 0.5) < 0.1


def test_all_references_and_wrong_windows_of_a_clip_are_drawn(faces):
    rng = np.random.default_rng(0)
    clip, frame = 2, 20
    references = {faces._reference(clip, frame, rng.random()) for _ in range(1000)}
    assert references == {f for f in range(42) if abs(f - frame) >= 6}
    wrong = {faces._wrong(clip, frame, rng.random(3), only_other_clips=False) for _ in range(3000)}
    inside = faces.clips[clip].inside
    assert {f for c, f in wrong if c == clip} == {f for f in inside if abs(f - frame) >= 5}
    assert {c for c, _ in wrong} == set(range(6))


def test_an_epoch_visits_every_target_once_in_another_order_each_time(faces):
    def epoch(seed, number):
        batches = (read_back(faces.batch((seed, number, n), 8))["target"] for n in range(faces.num_batches(8)))
        return list(itertools.chain.from_iterable(batches))

    first, second = epoch(3, 0), epoch(3, 1)
    whole = {(n, int(f)) for n, clip in enumerate(faces.clips) for f in clip.targets}
    assert set(first) == set(second) == whole
    assert len(first) - len(whole) < 8 and first[: len(whole)] != second[: len(whole)]
    assert epoch(3, 0) == first and epoch(4, 0) != first


def test_a_batch_depends_on_seed_epoch_and_number_only(clips, faces):
    again = dataset.FaceDataset(clips, SIZE, mel_dtype="float32")
    faces.batch((1, 5, 0), 4)
    for key in ((0, 0, 0), (0, 1, 3), (9, 2, 10**6)):
        one, two = faces.batch(key, 5), again.batch(key, 5)
        assert all((one[name] == two[name]).all() for name in one)
    drawn = [faces.batch(np.random.default_rng(8), 5)["target"] for _ in range(2)]
    assert (drawn[0] == drawn[1]).all()


def test_another_voice_moves_formants_and_level_and_keeps_time():
    mel = np.full((80, 27), -4, "float32")
    mel[38:43, 5:9] = 1  # one formant, for four frames
    voices = [augment.other_voice(mel, np.random.default_rng(seed)) for seed in range(50)]
    assert all(v.dtype == np.float32 and v.shape == mel.shape and np.abs(v).max() <= 4 for v in voices)
    loudest = np.array([v.max(axis=0).argsort()[-4:].min() for v in voices])
    assert (loudest == 5).all()
    bands = np.array([v[:, 6].argmax() for v in voices])
    assert 0.5 < bands.std() < 4 and abs(bands.mean() - 40) < 1.5
    assert np.ptp([v.max() for v in voices]) > 0.5
    pair = augment.other_voice(np.stack([mel, mel]), np.random.default_rng(0))
    np.testing.assert_array_equal(pair[0].argmax(axis=0)[5:9], pair[1].argmax(axis=0)[5:9])


def test_mel_batch_equals_the_mels_of_the_batch_with_the_same_key(faces):
    clips, frames, mels = faces.mel_batch((0, 1, 2), 6)
    batch = faces.batch((0, 1, 2), 6)
    np.testing.assert_array_equal(mels, batch["mel"])
    for clip, frame, target in zip(clips, frames, batch["target"], strict=True):
        np.testing.assert_array_equal(target, faces.read_crop(int(clip), int(frame)))


def test_a_batch_may_be_larger_than_the_data(tmp_path):
    small = dataset.FaceDataset([write(tmp_path, "a/1", num_frames=20)], SIZE)
    assert small.num_batches(64) == 1 and len(small.batch((0, 0, 0), 64)["target"]) == 64


def test_validation_is_fixed_evenly_spaced_and_uses_audio_of_other_clips(faces):
    batches = [read_back(b) for b in faces.validation_batches(8, 48)]
    assert batches == [read_back(b) for b in faces.validation_batches(8, 48)]
    assert [len(b["target"]) for b in batches] == [8] * 6
    targets = [t for b in batches for t in b["target"]]
    assert len(set(targets)) == 48 and max(collections.Counter(clip for clip, _ in targets).values()) <= 9
    assert all(b["wrong_mel"][i][0] != b["target"][i][0] for b in batches for i in range(8))
    everything = [t for b in faces.validation_batches(8, 10**6) for t in read_back(b)["target"]]
    assert set(everything) == {(n, int(f)) for n, clip in enumerate(faces.clips) for f in clip.targets}


def test_single_clip_uses_its_own_wrong_audio(tmp_path):
    lone = dataset.FaceDataset([write(tmp_path, "a/1", clip=3)], SIZE, mel_dtype="float32")
    for batch in (lone.batch((0, 0, 0), 32), *lone.validation_batches(8, 16)):
        named = read_back(batch)
        gaps = [abs(wrong[1] - right[1]) for wrong, right in zip(named["wrong_mel"], named["mel"], strict=True)]
        assert min(gaps) >= 3.2 * hparams.min_wrong_gap - 1


def test_frames_without_a_crop_are_never_used(tmp_path):
    frames = [f for f in range(60) if f not in (10, 11, 30)]
    holes = dataset.FaceDataset([write(tmp_path, "a/1", num_frames=60, frames=frames)], SIZE)
    for number in range(30):
        named = read_back(holes.batch((0, 0, number), 16))
        assert not {f for _, f in named["target"] + named["reference"]} & {10, 11, 30}


def test_clips_that_cannot_be_used_are_counted_by_reason(tmp_path):
    good = write(tmp_path, "a/good")
    few = write(tmp_path, "a/few", frames=range(11))
    enough = write(tmp_path, "a/enough", frames=range(8, 20))
    close = write(tmp_path, "a/close", num_frames=40, frames=range(0, 12))
    (close / "3.jpg").unlink()
    (tmp_path / "a/empty").mkdir()
    damaged = write(tmp_path, "a/damaged")
    (damaged / "mels.npz").write_bytes((damaged / "mels.npz").read_bytes()[:1000])
    pickled = write(tmp_path, "a/pickled")
    np.savez(pickled / "mels.npz", spec=np.array([{}]), frame_ids=np.arange(3), fps=25)
    odd = write(tmp_path, "a/odd")
    np.savez(odd / "mels.npz", spec=np.zeros((80, 200)), frame_ids=np.arange(40), fps=30)
    silent = write(tmp_path, "a/silent")
    np.savez(silent / "mels.npz", spec=np.zeros((80, 30)), frame_ids=np.arange(40), fps=25)
    clips = [good, few, enough, close, tmp_path / "a/empty", damaged, pickled, odd, silent]
    indexed = dataset.FaceDataset(clips, SIZE)
    assert [clip.folder.name for clip in indexed.clips] == ["good", "enough"]
    assert dict(indexed.skipped) == {
        "fewer than 12 crops": 1,
        "missing crops": 1,
        "no mels.npz": 1,
        "unreadable mels.npz": 2,
        "not at 25 frames a second": 1,
        "audio too short": 1,
    }


def test_a_dataset_without_a_usable_clip_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="the list is empty"):
        dataset.FaceDataset([], SIZE)
    with pytest.raises(UserError, match="1 with fewer than 12 crops"):
        dataset.FaceDataset([write(tmp_path, "a", frames=range(3))], SIZE)


def test_crops_of_another_size_are_refused_at_once(clips):
    with pytest.raises(UserError, match="--img_size 32"):
        dataset.FaceDataset(clips, 96)


def test_a_missing_or_damaged_crop_is_named(tmp_path):
    folder = write(tmp_path, "a/1")
    (folder / "5.jpg").write_bytes(b"")
    (folder / "7.jpg").write_bytes(b"no picture")
    read = dataset.FaceDataset([folder], SIZE).read_crop
    for frame in (5, 7):
        with pytest.raises(UserError, match=rf"{frame}\.jpg is not an image"):
            read(0, frame)
    (folder / "8.jpg").unlink()
    with pytest.raises(UserError, match=r"8\.jpg is missing"):
        read(0, 8)


def test_float16_mels_differ_by_less_than_0_002_from_float32_ones(tmp_path):
    mel = np.random.default_rng(0).uniform(-4, 4, (80, 129)).astype("float32")
    clip_folder.write_clip(tmp_path / "c", [numbered_crop(0, 0)] * 40, range(40), np.zeros((40, 4)), mel, np.zeros(9))
    half = dataset.FaceDataset([tmp_path / "c"], SIZE).mel_window(0, 20)
    assert half.dtype == np.float32
    assert np.abs(half - audio.mel_window(mel, 20, 25)).max() <= 0.001


def test_reading_is_fast_enough_for_a_gpu(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(60, 190, (24, 24, 3), "uint8").repeat(4, 0).repeat(4, 1)
    for clip in range(4):
        frames = [np.roll(noise, frame, 0) for frame in range(75)]
        mel, boxes = numbered_mel(clip, 75), np.zeros((75, 4))
        clip_folder.write_clip(tmp_path / f"a/{clip}", frames, range(75), boxes, mel, np.zeros(48_000))
    faces = dataset.FaceDataset(sorted((tmp_path / "a").iterdir()), 96)
    begun, samples = time.process_time(), 0
    while time.process_time() - begun < 0.5:
        samples += len(faces.batch((0, 0, samples // 96), 96)["target"])
    assert samples / (time.process_time() - begun) > 1000  # 2,000 and more on an idle core
