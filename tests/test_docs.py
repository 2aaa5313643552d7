"""README and docs/: every option is documented, links lead somewhere, the README stays short."""

import pathlib
import re

import pytest

import app
import batch_inference
import evaluate
import preprocess
import train
import train_unet

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = (preprocess, train_unet, train, batch_inference, evaluate, app)


def options_of(script, capsys):
    """Return the options in a script's --help, without dashes."""
    with pytest.raises(SystemExit):
        script.main(["--help"])
    return set(re.findall(r"(?<![\w-])--(?!no-)([a-z]\w+)", capsys.readouterr().out)) - {"help"}


def test_every_option_of_inference_is_documented(capsys):
    page = (ROOT / "docs" / "inference.md").read_text(encoding="utf-8")
    documented = {name.removeprefix("no-") for name in re.findall(r"--((?:no-)?[a-z]\w+)", page)}
    assert options_of(batch_inference, capsys) | options_of(app, capsys) <= documented


def test_commands_in_the_documents_use_options_that_exist(capsys):
    options = {script.__name__: options_of(script, capsys) for script in SCRIPTS}
    for page in PAGES:
        for script, line in re.findall(r"^ +(?:srun )?python (\w+)\.py (.*)$", page.read_text("utf-8"), re.MULTILINE):
            unknown = set(re.findall(r"--([a-z]\w+)", line)) - options.get(script, set())
            assert script in options and not unknown, f"{page.name}: {script}.py has no {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_in_documents_exist(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) < 10_000
