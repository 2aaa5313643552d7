"""The layout of the source tree: which module may import which, and what stays unloaded."""

import ast
import functools
import json
import pathlib
import subprocess
import sys

import pytest

from lipgan.models.compiled import CODE

ROOT = pathlib.Path(__file__).parent.parent
FRAMEWORKS = {"keras", "tensorflow", "jax", "torch"}

# A module imports from its own layer or from lower ones, where LAYERS counts upwards.
LAYERS = (
    ("lipgan.utils", "audio_hparams"),
    ("lipgan.faces", "lipgan.media"),
    ("lipgan.models", "lipgan.data", "generator", "discriminator"),
    ("lipgan.inference", "lipgan.preprocessing"),
    ("lipgan.evaluation", "lipgan.app"),
    ("lipgan.training",),
    ("lipgan", "tools", "preprocess", "train_unet", "train", "batch_inference", "evaluate", "app"),
)


def source_files():
    """Return {module name: file} of the scripts, the package and the tools."""
    files = [*ROOT.glob("*.py"), *(ROOT / "lipgan").rglob("*.py"), *(ROOT / "tools").glob("*.py")]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


FILES = source_files()


def imported(tree):
    """Yield the names of the modules that the import statements under this node name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_module(name):
    """Return which of our modules an imported name is, or lies in; None for a module of a library."""
    while name and name not in FILES:
        name = name.rpartition(".")[0]
    return name or None


@functools.cache
def parsed(module):
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def layer(module):
    """Return the number of a module's layer, 0 for the lowest."""
    for number, names in enumerate(LAYERS):
        for name in names:
            if module == name or (module.startswith(f"{name}.") and name != "lipgan"):
                return number
    raise AssertionError(f"{module} stands in no layer of {LAYERS}")


def imports_at_load(module):
    """Return the libraries and our modules that importing a module loads, its own imports followed."""
    seen, waiting, libraries = set(), [module], set()
    while waiting:
        current = waiting.pop()
        seen.add(current)
        at_load = [node for node in parsed(current).body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
        for name in imported(ast.Module(at_load, [])):
            own = own_module(name)
            if own is None:
                libraries.add(name.split(".")[0])
            elif own not in seen:
                waiting.append(own)
    return libraries | seen


@pytest.mark.parametrize("module", sorted(FILES))
def test_imports_point_downwards(module):
    names = (name for name in imported(parsed(module)) if name != "lipgan.__version__")  # a string, set first of all
    upwards = {own for name in names if (own := own_module(name)) and layer(own) > layer(module)}
    assert not upwards, f"{module} imports from a higher layer: {', '.join(sorted(upwards))}"


def test_preprocessing_and_inference_are_independent():
    for module, other in (("lipgan.preprocessing", "lipgan.inference"), ("lipgan.inference", "lipgan.preprocessing")):
        for name in (n for n in FILES if n.startswith(module)):
            assert not [i for i in imported(parsed(name)) if i.startswith(other)], name


def test_generator_loads_no_face_detector():
    """Keras itself imports OpenCV where that is installed; our own modules must not need it."""
    assert not {"dlib", "cv2"} & imports_at_load("generator")


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("lipgan.preprocessing")])
def test_preprocessing_never_imports_a_framework(module):
    """Not in functions either: workers are started by the hundred."""
    assert not FRAMEWORKS & {name.split(".")[0] for name in imported(parsed(module))}


def test_inference_needs_no_training_package():
    """What requirements-inference.txt leaves out must not be imported by what batch_inference.py loads."""
    loads = ("batch_inference", "generator", "lipgan.inference", "lipgan.models", "lipgan.faces", "lipgan.media")
    packages = {"tensorflow", "tensorboard", "dask", "distributed", "simplejpeg", "filelock", "matplotlib"}
    for module in (name for name in FILES if name.startswith(loads)):
        assert not packages & imports_at_load(module), module


def loaded_frameworks(code, *arguments):
    """Run the code in a fresh Python. Returns the deep-learning frameworks that it loaded."""
    code += f"\nimport sys; print('loaded', *sorted({FRAMEWORKS!r} & set(sys.modules)))"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()[-1].split()[1:]


def test_scripts_load_no_framework_at_import():
    """`import lipgan` and every script's --help are quick, and set the backend before Keras is imported."""
    assert loaded_frameworks("import lipgan, preprocess, train_unet, train, batch_inference, evaluate, app") == []


def test_tables_of_scored_clips_load_no_framework(tmp_path):
    scored = tmp_path / "scored.json"
    rows = [{"clip": "a/1", "person": "a", "row": "generated", "opening": 0.5}]
    scored.write_text(json.dumps({"rows": rows, "skipped": {}}), encoding="utf-8")
    assert loaded_frameworks("import sys, evaluate; assert evaluate.main(['--scored', sys.argv[1]]) == 0", scored) == []


def test_few_files_at_the_top_level():
    """A newcomer sees the commands and the networks, and nothing else."""
    assert len(list(ROOT.glob("*.py"))) <= 9


BUILDERS = ("generator", "discriminator", "lipgan.models.warp")  # of networks, whose functions may be longer
MAX_LINES, MAX_PARAMETERS = 60, 8


@pytest.mark.parametrize("module", sorted(set(FILES) - set(BUILDERS)))
def test_functions_are_short_and_have_few_parameters(module):
    for function in (node for node in ast.walk(parsed(module)) if isinstance(node, ast.FunctionDef)):
        parameters = [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]
        assert function.end_lineno - function.lineno < MAX_LINES, function.name
        assert len(set(parameters) - {"self", "cls"}) <= MAX_PARAMETERS, function.name


def test_cache_keys_cover_all_code_that_builds_networks():
    building = {"generator", *(f"lipgan.models.{name}" for name in ("warp", "lip_flow", "speech"))}
    used = {own_module(name) for module in building for name in imported(parsed(module))} - {None}
    other = {"audio_hparams", "lipgan.models.backend", "lipgan.models.compiled"}  # whose numbers are in the name
    files = {FILES[name] for name in building | used - other if not name.startswith("lipgan.utils")}
    assert files <= {ROOT / name for name in CODE}
