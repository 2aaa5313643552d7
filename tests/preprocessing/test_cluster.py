"""preprocess.py on a Dask cluster and as a job array: no clip is lost when workers are killed."""

import itertools
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest
from helpers.videos import ROOT, face_frames, sometimes_deadly, touch, write_video

import preprocess
from lipgan.preprocessing import run_log
from lipgan.preprocessing.clip import ClipResult, Status
from lipgan.preprocessing.run_log import RunLog
from lipgan.preprocessing.video_list import Shard
from lipgan.utils import parallel
from lipgan.utils.cli import UserError

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a scheduler on loopback with two worker processes, as `python -m dask` starts them."""
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "critical"}
    nobody = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    ports = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    own = ("--scheduler-file", str(file), "--nworkers", "2", "--nthreads", "1", "--no-dashboard")
    commands = (
        ("scheduler", *ports, "--scheduler-file", str(file)),
        ("worker", *own, "--local-directory", str(folder)),
    )
    started = [
        subprocess.Popen([sys.executable, "-m", "dask", *command], cwd=ROOT, env=environment, **nobody)
        for command in commands
    ]
    deadline = time.monotonic() + 60
    while not (file.exists() and file.stat().st_size) and time.monotonic() < deadline:  # it is made empty
        time.sleep(0.1)
    yield json.loads(file.read_text())["address"]
    for process in reversed(started):
        process.terminate()
    for process in started:
        process.wait()


def test_cluster_replaces_killed_workers_and_drops_only_the_cause(cluster, tmp_path):
    tasks = [(n, str(tmp_path)) for n in range(12)]
    results = dict(parallel.in_workers(sometimes_deadly, tasks, 1, tmp_path, cluster))
    assert results == {n: {3: "bad", 5: None}.get(n, n) for n in range(12)}
    assert not list(tmp_path.glob(".tmp_*"))


def test_clips_are_preprocessed_on_a_cluster(cluster, tmp_path, monkeypatch):
    write_video(tmp_path / "videos/anna/good.mp4", face_frames(14))
    (tmp_path / "videos/anna/empty.mp4").touch()
    monkeypatch.chdir(tmp_path)  # workers have another working directory
    options = ["--videos_data_root", "videos", "--final_data_root", "final", "--all", "--detector", "hog"]
    assert preprocess.main([*options, "--scheduler", cluster]) == 0
    assert sorted(path.name for path in (tmp_path / "final/main/anna").iterdir()) == ["good"]
    run = json.loads((tmp_path / "final/preprocess.json").read_text())["runs"]["all"]
    assert (run["done"], run["crops"], run["failed_clips"]) == (1, 14, {"main/anna/empty": "empty file"})


def test_unreachable_scheduler_raises_user_error(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "WORKER_TIMEOUT_S", 0.3)
    with pytest.raises(
        UserError, match=r"no scheduler with a worker answers at --scheduler tcp://127\.0\.0\.1:9.*dask worker"
    ):
        list(parallel.in_workers(sometimes_deadly, [(1, "")], 1, tmp_path, "tcp://127.0.0.1:9"))


def test_shards_partition_the_list():
    items = list(range(11))
    for count in (1, 2, 3, 11, 20):
        parts = [Shard(number, count).part(items) for number in range(1, count + 1)]
        assert sorted(itertools.chain(*parts)) == items and max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.fixture
def instantly(monkeypatch):
    """Workers that write a clip in no time, and fail on those named bad."""

    def work(task, arguments, num_workers, scratch, scheduler):
        for number, (source, folder, *_) in enumerate(arguments):
            if pathlib.Path(source).stem == "bad":
                yield number, ClipResult(Status.SKIPPED, "no face", seconds=1.0)
            else:
                touch(pathlib.Path(folder), "mels.npz")
                yield number, ClipResult(Status.DONE, "", 30, 29, 0, 3.0)

    monkeypatch.setattr(preprocess, "in_workers", work)


def preprocessed(root, *more):
    options = ["--videos_data_root", root / "videos", "--final_data_root", root / "final", "--filelists", root, *more]
    return preprocess.main([str(option) for option in options])


def counts(root):
    return json.loads((root / "final/preprocess.json").read_text())["runs"]


def test_shards_share_a_folder_and_their_counts_are_summed(instantly, tmp_path):
    touch(tmp_path / "videos", *(f"main/a/{name}.mp4" for name in ("1", "2", "3", "4", "bad")))
    (tmp_path / "train.txt").write_text("a/1\na/2\na/3\na/4\na/bad\na/absent\n")
    assert preprocessed(tmp_path, "--shard", "2/3") == 0
    assert counts(tmp_path)["train"]["shards"] == "1 of 3"
    assert [preprocessed(tmp_path, "--shard", shard) for shard in ("1/3", "3/3")] == [0, 0]
    assert len(list((tmp_path / "final").glob("main/a/*"))) == 4
    run = counts(tmp_path)["train"]
    assert (run["done"], run["crops"], run["frames"], run["shards"]) == (4, 116, 120, "3 of 3")
    assert run["failed_clips"] == {"main/a/absent": "no video file", "main/a/bad": "no face"}
    assert preprocessed(tmp_path, "--shard", "1/3") == 0  # again: nothing is counted twice
    run = counts(tmp_path)["train"]
    assert (run["done"] + run["done_before"], run["crops"]) == (4, 116)
    assert preprocessed(tmp_path) == 0  # the list as a whole takes the place of its parts
    assert "shards" not in counts(tmp_path)["train"] and not list((tmp_path / "final/.shards").glob("train*.json"))


def test_empty_shard_is_no_error(instantly, tmp_path):
    touch(tmp_path / "videos", "main/a/1.mp4")
    assert [preprocessed(tmp_path, "--all", "--shard", shard) for shard in ("2/2", "1/2")] == [0, 0]
    assert counts(tmp_path)["all"]["done"] == 1


def test_shard_keeps_the_temporary_files_of_others(tmp_path):
    for clip in ("1", "2.5", "3_x"):
        touch(tmp_path / "main/a" / f".tmp_{clip}.abcd_fgh", "0.jpg")
    with log(tmp_path, 1).lock(["main/a/1", "main/a/3_x"]):
        assert [path.name for path in (tmp_path / "main/a").iterdir()] == [".tmp_2.5.abcd_fgh"]
    with log(tmp_path).lock():
        assert list((tmp_path / "main/a").iterdir()) == []


def log(root, number=None):
    return RunLog(root, "train", number and Shard(number, 2))


def test_shards_run_concurrently_and_exclude_other_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(run_log, "GATE_S", 0.1)

    def refused(number=None):
        with pytest.raises(UserError, match=r"another preprocess\.py is running"), log(tmp_path, number).lock():
            pass

    with log(tmp_path, 1).lock(), log(tmp_path, 2).lock():
        refused(1)
        refused()
    with log(tmp_path).lock():
        refused(1)
    with log(tmp_path, 1).lock():
        pass


def test_many_shards_that_finish_at_once_lose_no_counts(tmp_path):
    code = (
        "import sys, pathlib\n"
        "from lipgan.preprocessing.clip import ClipResult, Status\n"
        "from lipgan.preprocessing.run_log import RunLog\n"
        "from lipgan.preprocessing.video_list import Shard\n"
        "root, number = pathlib.Path(sys.argv[1]), int(sys.argv[2])\n"
        "log = RunLog(root, 'train', Shard(number, 4))\n"
        "with log.lock():\n"
        "    log.start({'img_size': 96})\n"
        "    log.finish({f'main/a/{number}': ClipResult(Status.DONE, '', 10, 10)}, [], 0)\n"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(number)], cwd=ROOT) for number in range(1, 5)
    ]
    assert [run.wait() for run in runs] == [0] * 4
    settings = json.loads((tmp_path / "preprocess.json").read_text())
    assert settings["img_size"] == 96
    assert (settings["runs"]["train"]["done"], settings["runs"]["train"]["crops"]) == (4, 40)


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "a/b", "/"])
def test_invalid_shard_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        preprocess.parse_args(["--videos_data_root", "x", "--final_data_root", "y", "--shard", text])
    assert "--shard" in capsys.readouterr().err
