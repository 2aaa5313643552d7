"""The page: components and events of Gradio around a `visit.Studio`. Needs requirements-app.txt."""

import html
import os
import pathlib
import tempfile

# Read when Gradio is imported and used; a page for one's own machine reports nothing and asks no other machine.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr

from lipgan.app.visit import Limits, Progress, Studio, in_page_words
from lipgan.inference.options import LipsyncOptions, declared
from lipgan.utils.cli import UserError, one_line

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
SWEEP_S = 60  # seconds between two looks for files that are too old
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # of the system: none loaded

INTRODUCTION = """# LipGAN: a face says what a recording says
Choose a face and a recording of speech, then make the video."""

# Beside its picture a video has a row of buttons, which a height of the component would cut off.
CSS = "#video video { max-height: 280px; }"
TO_RESULT = "() => document.querySelector('#status').scrollIntoView({behavior: 'smooth', block: 'center'})"

NOTICE = """**Results are synthetic.** Use your own face, or that of a person who agreed to this video; the same for the
voice. Say that the video is synthetic wherever you show it: its file says so too. Do not use it to deceive.

Files stay on the machine that runs this page and are removed after {keep} minutes. At most {mb:g} MB a file and {s:g} s
of audio."""

CLICK = "Several faces: click on the one that shall speak"

# Options of LipsyncOptions on the page, in this order: label, and choices (shown, text) or None for the option's own.
OPTIONS = {
    "resize_factor": ("Resolution", [("as the source", ""), ("half", "2"), ("a quarter", "4")]),
    "expression": (
        "Expression of a still image",
        [("as the image needs", ""), ("kept", "keep"), ("half of it", "0.5"), ("neutral", "neutral")],
    ),
    "static": ("Still: use only the first frame of a video", None),
    "side_by_side": ("Put the source into the video, on the left", None),
    "face_index": ("Which face, from 0 from the left (empty: the largest)", None),
    "pads": ("Pads: pixels by which the face box grows at its top, bottom, left, right", None),
    "motion_gain": ("Motion of the lips", [("normal", ""), ("less", "0.75"), ("more", "1.25")]),
}


def build_page(studio: Studio) -> gr.Blocks:
    """Build the page."""
    limits = studio.limits
    with gr.Blocks(
        title="LipGAN", analytics_enabled=False, delete_cache=(SWEEP_S, round(60 * limits.keep_minutes))
    ) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column():
                inputs = _inputs()
            with gr.Column():
                video = gr.Video(label="Result", interactive=False, include_audio=True, elem_id="result", buttons=[])
                status = gr.HTML("<br>", elem_id="status", min_height=70)
                file = gr.DownloadButton("Download", visible=False, elem_id="download")
                gr.Markdown(NOTICE.format(keep=f"{limits.keep_minutes:g}", mb=limits.max_mb, s=limits.max_seconds))
        _examples(inputs)
        # So far there are no files but the examples': the sweep would remove those of the speech too.
        inputs["audio"].keep_in_cache.update(*page.temp_file_sets)
        _connect_faces(studio, inputs)
        _connect_making(studio, inputs, (status, video, file))
    return page.queue(
        default_concurrency_limit=1
    )  # the studio has a queue of its own, in which visitors see their place


def launch(page: gr.Blocks, limits: Limits, host: str, port: int):
    """Serve the page in threads of its own. Returns its address. Raises UserError where the port is taken."""
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            max_file_size=f"{round(limits.max_mb * 1000)}kb",
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            show_error=False,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            theme=gr.themes.Default(**FONTS),
            css=CSS,
        )
    except OSError as e:
        raise UserError(f"--port {port} of --host {host} cannot be used ({one_line(e)}); choose another") from None
    return address


def use_folder(folder: pathlib.Path) -> pathlib.Path:
    """Let Gradio keep uploads and results below a folder. Returns the one for videos in the making."""
    tempfile.tempdir = str(folder)
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "gradio")
    (folder / "videos").mkdir()  # beside Gradio's folder: it copies what it shows, and removes its copy when it is old
    return folder / "videos"


def _inputs():
    """Build the left column. Returns its components by name."""
    kind = gr.Radio(["image", "video"], value="image", label="Face")
    # The buttons of each are named: by default there is one that shares the file on another machine.
    image = gr.Image(
        sources=["upload", "webcam"], type="filepath", label="Image of a face", height=320, buttons=["fullscreen"]
    )
    video = gr.Video(sources=["upload", "webcam"], label="Video of a face", visible=False, elem_id="video", buttons=[])
    faces = gr.Image(label=CLICK, interactive=False, visible=False, elem_id="faces", buttons=["fullscreen"])
    audio = gr.Audio(
        sources=["upload", "microphone"], type="filepath", label="Speech", elem_id="speech", buttons=["download"]
    )
    for component in (image, video, audio):
        # As they are: what a file is, and whether it can be read, is for LipGAN to say. (Gradio would convert them. It
        # has checked by then that the path is one of its uploads.)
        component.preprocess = lambda payload: payload.path if payload else None
    with gr.Accordion("Options", open=False):
        options = {name: _option(name, *OPTIONS[name]) for name in OPTIONS if name in declared(LipsyncOptions)}
    inputs = {"kind": kind, "image": image, "video": video, "audio": audio, **options}
    inputs["_faces"], inputs["_squares"] = faces, gr.State([])
    with gr.Row():
        inputs["_make"] = gr.Button("Make the video", variant="primary", elem_id="make")
        inputs["_stop"] = gr.Button("Stop", elem_id="stop")
    kind.change(
        lambda kind: (gr.update(visible=kind == "image"), gr.update(visible=kind == "video")),
        kind,
        [image, video],
        api_visibility="private",
        queue=False,
    )
    return inputs


def _option(name, label, choices):
    """Build the component of an option; its text is that of a --jobs cell."""
    field = declared(LipsyncOptions)[name]
    if isinstance(field.default, bool):
        return gr.Checkbox(field.default, label=label)
    choices = choices or field.metadata.get("choices")
    if choices:
        value = choices[0][1] if isinstance(choices[0], tuple) else field.default
        return gr.Dropdown(choices, value=value, label=label)
    return gr.Textbox("", label=label, placeholder="0 0 0 0" if name == "pads" else "", max_lines=1, elem_id=name)


def _examples(inputs):
    """Inputs that work at once."""
    face, speech = str(EXAMPLES / "astronaut.jpg"), str(EXAMPLES / "speech.wav")
    names = ("kind", "image", "audio", "resize_factor", "side_by_side")
    gr.Examples(
        [["image", face, speech, "", False], ["image", face, speech, "2", True]],
        [inputs[name] for name in names],
        label="Examples: choose one, then make the video",
        example_labels=["An astronaut and a synthetic voice", "The same in half the size, beside the source"],
    )


def _connect_faces(studio, inputs):
    """Show the numbered faces of an upload with several, and let a click choose one."""

    def show(file):
        hidden = gr.update(visible=False, value=None), [], ""
        if not file:
            return hidden
        try:
            image, squares = studio.find_faces(file)
        except UserError as e:
            raise _error(e) from None
        shown = gr.update(visible=True, value=image[..., ::-1], label=CLICK)
        return (shown, squares, "") if len(squares) > 1 else hidden

    def choose(squares, event: gr.SelectData):
        x, y = event.index
        inside = [n for n, (top, bottom, left, right) in enumerate(squares) if top <= y < bottom and left <= x < right]
        if not inside:
            gr.Info("No face is marked there; click inside of a square.")
            return gr.skip(), gr.skip()
        return str(inside[0]), gr.update(label=f"Face {inside[0]} speaks; click on another one to change that")

    outputs = [inputs["_faces"], inputs["_squares"], inputs["face_index"]]
    for source in (inputs["image"], inputs["video"]):
        source.change(show, source, outputs, api_visibility="private", show_progress="hidden", concurrency_id="faces")
    inputs["_faces"].select(
        choose, inputs["_squares"], [inputs["face_index"], inputs["_faces"]], api_visibility="private", queue=False,
        show_progress="hidden",
    )  # fmt: skip


def _connect_making(studio, inputs, outputs):
    """Make a video when the button is pressed, and show how far it is."""
    used = {name: component for name, component in inputs.items() if not name.startswith("_")}

    def make(*values):
        row = dict(zip(used, values, strict=True))
        kind, image, video, audio = (row.pop(name) for name in ("kind", "image", "video", "audio"))
        options = {name: str(value) for name, value in row.items() if value not in (None, "")}
        hidden = gr.update(visible=False)
        try:
            yield _bar(Progress("reading")), None, hidden
            for state in studio.make(image if kind == "image" else video, audio, options):
                if isinstance(state, Progress):
                    yield _bar(state), gr.skip(), hidden
                else:
                    yield _summary(state), str(state.path), gr.update(value=str(state.path), visible=True)
        except UserError as e:
            yield _failure(e), None, hidden
            raise _error(e) from None

    running = inputs["_make"].click(
        make, list(used.values()), list(outputs), api_name="make_video", show_progress="hidden",
        concurrency_limit=None, trigger_mode="once",
    )  # fmt: skip
    inputs["_make"].click(None, js=TO_RESULT)
    inputs["_stop"].click(
        lambda: "Stopped.", None, outputs[0], cancels=[running], api_visibility="private", show_progress="hidden"
    )


def _error(error):
    """Return a UserError's line as an error of the page, shown until it is closed."""
    return gr.Error(html.escape(one_line(error)), duration=None, print_exception=False, title="This did not work")


def _failure(error):
    """Return the same line in place of the progress, where it stays."""
    return f'<div role="alert" style="color: #c00">{html.escape(one_line(error))}</div>'


def _bar(progress):
    """Return the progress as a bar and in words."""
    before = "1 video" if progress.ahead == 1 else f"{progress.ahead} videos"
    names = {"waiting": f"waiting: {before} before yours", "reading": "reading the files"}
    names |= {"faces": "looking for the face", "frames": "making frames"}
    text = names.get(progress.phase, progress.phase)
    if progress.phase == "faces" and progress.done == progress.total:
        text, progress = "looking at the mouth", Progress("faces")  # unless the video has fewer frames than it says
    if progress.total:
        text += f": {progress.done} of {progress.total}"
    if progress.left_s is not None:
        text += f", about {progress.left_s:.0f} s left"
    value = f' value="{progress.done}" max="{progress.total}"' if progress.total else ""
    return f'<progress style="width: 100%"{value}></progress><div>{html.escape(text)}</div>'


def _summary(result):
    """Return the result's summary as HTML."""
    folder = f"{result.path.parent}/"
    return "<br>".join(html.escape(in_page_words(line.replace(folder, ""))) for line in result.summary())
