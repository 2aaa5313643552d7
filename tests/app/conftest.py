"""The page's tests are slow, and so is importing Gradio: it is not imported where slow tests are left out."""


def pytest_ignore_collect(config):
    return True if config.getoption("markexpr") == "not slow" else None
