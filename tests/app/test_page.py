"""The page: what visitors do, through Gradio's client and in a real browser. Skipped without requirements-app.txt."""

import concurrent.futures
import contextlib
import json
import pathlib
import shutil
import socket
import time
import urllib.request

import cv2
import numpy as np
import pytest
from helpers.sounds import write_wav

from lipgan.media import video

gradio = pytest.importorskip("gradio", reason="the page needs requirements-app.txt")
gradio_client = pytest.importorskip("gradio_client", reason="the page needs requirements-app.txt")

from gradio.route_utils import delete_files_created_by_app  # noqa: E402

from lipgan.app import page as app_page  # noqa: E402
from lipgan.app.visit import WORDS, Limits, Progress, Studio, in_page_words  # noqa: E402
from lipgan.inference.runner import load_runner  # noqa: E402
from lipgan.utils.cli import UserError  # noqa: E402

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[2]
ASTRONAUT = str(ROOT / "examples" / "astronaut.jpg")
LIMITS = Limits(max_mb=1, max_seconds=3)
SPEECH = "#speech audio, #speech [data-testid*=waveform]"  # once it is uploaded
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(address, page, studio, folder) of a page that runs here."""
    folder = tmp_path_factory.mktemp("app")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")
        patch.setattr("tempfile.tempdir", None)
        studio = Studio(load_runner(), app_page.use_folder(folder), LIMITS)
        page = app_page.build_page(studio)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        yield app_page.launch(page, LIMITS, "127.0.0.1", port), page, studio, folder
        page.close()


@pytest.fixture
def speech(tmp_path):
    """The path of a short sound."""
    return str(write_wav(tmp_path / "speech.wav", 0.4))


@contextlib.contextmanager
def client_of(address):
    client = gradio_client.Client(address, verbose=False)
    try:
        yield client
    finally:
        client.close()


def make(client, image=None, audio=None, **options):
    """Call the page's function by its name. Returns the job."""
    values = {"kind": "image", "image": image, "video": None, "audio": audio, "resize_factor": "2", **options}
    files = {name: gradio_client.handle_file(path) for name, path in values.items() if name in FILES and path}
    ordered = {name: files.get(name, values.get(name, default)) for name, default in DEFAULTS.items()}
    return client.submit(*ordered.values(), api_name="/make_video")


FILES = ("image", "video", "audio")
DEFAULTS = {"kind": "image", "image": None, "video": None, "audio": None, "resize_factor": "", "expression": ""}
DEFAULTS |= {"static": False, "side_by_side": False, "face_index": "", "pads": ""}


def test_visitor_gets_a_video_and_files_are_removed(server, speech):
    address, page, _, folder = server
    with client_of(address) as client:
        status, shown, _download = make(client, ASTRONAUT, speech, side_by_side=True).result(timeout=120)
    assert "0.40 s, 10 frames, 512 x 256" in status and "assumed face: the largest" in status and "/" not in status[:20]
    path = shown["video"] if isinstance(shown, dict) else shown
    assert video.probe(path).num_frames == 10
    assert not any((folder / "videos").iterdir())  # Gradio's own copy is what the visitor sees
    mine = [file for file in (folder / "gradio").rglob("*.mp4")]
    assert mine
    delete_files_created_by_app(page, age=0)  # what the page does once a minute with the age of --keep_minutes
    kept = {pathlib.Path(path) for block in page.blocks.values() for path in getattr(block, "keep_in_cache", ())}
    assert {path.name for path in kept if path.exists()} == {"astronaut.jpg", "speech.wav"}  # of the examples
    left = [file.name for file in (folder / "gradio").rglob("*") if file.is_file()]
    assert sorted({name for name in left if not name.startswith("tmp")} - {"astronaut.jpg", "speech.wav"}) == []


def test_errors_are_shown_as_one_line(server, speech, tmp_path):
    (tmp_path / "broken.jpg").write_text("no picture at all")
    long = str(write_wav(tmp_path / "long.wav", 4))
    with client_of(server[0]) as client:
        for job, line in (
            (make(client, str(tmp_path / "broken.jpg"), speech), "broken.jpg"),
            (make(client, ASTRONAUT, long), "long.wav is longer than the 3 s that this page takes"),
            (make(client, ASTRONAUT, None), "choose the speech first"),
            (make(client, ASTRONAUT, speech, pads="1 2"), "Pads 1 2: 2 values, not 4"),
        ):
            with pytest.raises(Exception, match=line) as error:
                job.result(timeout=120)
            assert "Traceback" not in str(error.value) and str(tmp_path) not in str(error.value)


def test_other_files_of_the_server_are_not_served(server):
    """A path that was not uploaded is refused before the page sees it. (The client would upload it.)"""
    call = f"{server[0]}gradio_api/call/make_video"
    file = {"path": str(ROOT / "README.md"), "meta": {"_type": "gradio.FileData"}}
    body = json.dumps({"data": ["image", file, *list(DEFAULTS.values())[2:]]}).encode()
    request = urllib.request.Request(call, body, {"Content-Type": "application/json"})
    event = json.load(urllib.request.urlopen(request, timeout=60))["event_id"]
    answer = urllib.request.urlopen(f"{call}/{event}", timeout=120).read().decode()
    assert "event: error" in answer and "choose a face" not in answer


def test_two_visitors_are_served_one_after_the_other(server, speech):
    with client_of(server[0]) as one, client_of(server[0]) as two:
        jobs = [make(client, ASTRONAUT, speech) for client in (one, two)]
        assert all("10 frames" in job.result(timeout=180)[0] for job in jobs)


def test_work_is_cancelled_when_the_visitor_leaves(server, tmp_path):
    """A closed tab closes the generator."""
    _, _, studio, folder = server
    long = write_wav(tmp_path / "long.wav", 2.9)
    states = studio.make(ASTRONAUT, long, {})
    while not (state := next(states)).total:
        assert isinstance(state, Progress)
    states.close()
    assert isinstance(list(studio.make(ASTRONAUT, write_wav(tmp_path / "s.wav", 0.1), {"resize_factor": "2"}))[-1].path,
                      pathlib.Path)  # fmt: skip
    assert not any((folder / "videos").iterdir())


def test_faces_are_numbered_from_the_left(server, tmp_path):
    face = cv2.imread(ASTRONAUT)
    cv2.imwrite(str(tmp_path / "two.png"), np.hstack([face, face[:, ::-1]]))
    image, squares = server[2].find_faces(tmp_path / "two.png")
    assert image.shape == (512, 1024, 3) and len(squares) == 2 and squares[0][3] < 512 < squares[1][2]
    (tmp_path / "broken.png").write_text("text")
    with pytest.raises(UserError, match=r"^no frame of broken\.png"):
        server[2].find_faces(tmp_path / "broken.png")


def test_messages_use_the_labels_of_the_page():
    line = "no face found in the image a.jpg (detector cnn); try --face_box T B L R or a larger face"
    assert in_page_words(line).endswith("; try a larger face, upright and seen from the front")
    assert in_page_words("--audio a.wav is empty (0 bytes)") == "a.wav is empty (0 bytes)"
    assert in_page_words("--face_index 3: the first frame has 2; --list_faces shows them") == (
        "Which face 3: the first frame has 2; click on one of the numbered faces, or leave it empty"
    )


def test_every_reworded_message_exists():
    files = (file for file in (ROOT / "lipgan").rglob("*.py") if file.parent.name != "app")
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    options = {"--audio ", "--face ", "--pads", "--face_index"}
    assert [words for words in WORDS if words not in source and words not in options] == []


def test_page_has_no_share_button(server):
    components = [part["props"] for part in server[1].get_config_file()["components"]]
    buttons = [props["buttons"] for props in components if "buttons" in props and props.get("label")]
    assert len(buttons) >= 5 and all(shown is not None and "share" not in shown for shown in buttons)


@pytest.fixture(scope="module")
def visit():
    """A function that calls another one with a browser's page, of a given width, and returns the hosts it asked."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser test needs the package playwright")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"the browser test needs one of {', '.join(BROWSERS)}")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]

    def run(act, address, width):
        hosts = set()
        with sync_api.sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=browser, args=flags)
            page = chromium.new_page(viewport={"width": width, "height": 844})
            page.set_default_timeout(120_000)
            page.on("request", lambda request: hosts.add(request.url.split("/")[2].partition(":")[0]))
            page.goto(address)
            act(page)
            chromium.close()
        return hosts

    def in_thread(*arguments):  # the client's event loop must not be in the way of Playwright's
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            return thread.submit(run, *arguments).result()

    return in_thread


def test_page_in_a_browser_sends_no_request_to_other_hosts(server, visit):
    results = {}

    def act(page):
        page.get_by_text("The same in half the size").click()
        page.wait_for_selector("img[src*=astronaut]")
        page.wait_for_selector(SPEECH, state="attached")
        results["notice"] = page.get_by_text("Results are synthetic").is_visible()
        results["too_wide"] = page.evaluate("document.documentElement.scrollWidth > innerWidth")
        page.locator("#make").click()
        page.locator("#status").get_by_text("speech.wav is longer than the 3 s that this page takes").wait_for()

    hosts = visit(act, server[0], 390)
    assert results == {"notice": True, "too_wide": False}
    assert hosts <= {"127.0.0.1", ""}


def test_video_is_made_from_a_clicked_face_in_a_browser(server, visit, speech, tmp_path):
    """Uploads, a click on the second of two faces, the result, and its download."""
    face = cv2.imread(ASTRONAUT)
    cv2.imwrite(str(tmp_path / "two.png"), np.hstack([face, face[:, ::-1]]))
    results = {}

    def act(page):
        page.locator("input[type=file][accept*=image]").set_input_files(tmp_path / "two.png")
        page.locator("input[type=file][accept*=audio]").set_input_files(speech)
        faces = page.locator("#faces img")
        faces.wait_for()
        box = faces.bounding_box()
        faces.click(position={"x": box["width"] * 0.78, "y": box["height"] * 0.25})
        page.get_by_text("Face 1 speaks").wait_for()
        page.wait_for_selector(SPEECH, state="attached")
        page.locator("#make").click()
        page.locator("#status").get_by_text("10 frames, 1024 x 512").wait_for()
        page.wait_for_function("document.querySelector('#result video')?.videoWidth == 1024")
        with page.expect_download() as download:
            page.locator("#download").click()
        results["name"] = download.value.suggested_filename
        download.value.save_as(tmp_path / "out.mp4")

    visit(act, server[0], 1280)
    assert results["name"] == "two_speech.mp4"
    frames = np.stack(list(video.read_frames(video.probe(tmp_path / "out.mp4")))).astype(np.float32)
    motion = frames.std(axis=0).mean(axis=(0, 2))  # of each column
    assert motion[512:].max() > 5 * motion[:512].max()


def test_closed_tab_ends_its_video(server, visit, tmp_path):
    _, _, _, folder = server
    long = str(write_wav(tmp_path / "long.wav", 2.9))

    def act(page):
        page.locator("input[type=file][accept*=image]").set_input_files(ASTRONAUT)
        page.locator("input[type=file][accept*=audio]").set_input_files(long)
        page.wait_for_selector(SPEECH, state="attached")
        page.locator("#make").click()
        page.locator("#status").get_by_text("making frames").wait_for()

    visit(act, server[0], 1280)
    deadline = time.monotonic() + 60
    while any((folder / "videos").iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
