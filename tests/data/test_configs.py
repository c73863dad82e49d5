"""conf/data/<name>.yaml: every option of its class is there, with the class's own default."""

import inspect
from importlib.resources import files

import pytest
from omegaconf import OmegaConf

import ddiff.data

FOLDER = files("ddiff.conf") / "data"
NAMES = sorted(f.name for f in FOLDER.iterdir() if f.name.endswith(".yaml"))


def test_every_data_set_has_a_config():
    targets = {OmegaConf.create((FOLDER / name).read_text())["_target_"] for name in NAMES}
    assert targets == {
        f"ddiff.data.{name}"
        for name in ddiff.data.__all__
        if name not in ("Data", "Source", "write")
    }


@pytest.mark.parametrize("name", NAMES)
def test_options_and_defaults_agree(name):
    text = (FOLDER / name).read_text()
    assert text.startswith(f"# conf/data/{name} : ")
    options = OmegaConf.to_container(OmegaConf.create(text))
    options.pop("defaults", None)
    cls = getattr(ddiff.data, options.pop("_target_").rpartition(".")[2])
    parameters = inspect.signature(cls).parameters
    assert list(options) == list(parameters)
    assert options["batch_size"] == "${budget.batch_size}"
    assert options["seed"] == "${seed}"
    for option, parameter in parameters.items():
        if parameter.default is not parameter.empty:
            assert options[option] == parameter.default
