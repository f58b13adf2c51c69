"""`import rm_plugin`: light, every public name there, the model class known to transformers whichever is first."""

import importlib
import subprocess
import sys

import pytest
from models import tiny_reward_model, tiny_tokenizer

import rm_plugin


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """A folder that only this package can open: `model_type: reward_model`."""
    folder = tmp_path_factory.mktemp("native")
    tiny_reward_model().save_pretrained(folder, format="native")
    tiny_tokenizer("plain").save_pretrained(folder)
    return str(folder)


def in_fresh_process(script: str) -> list[str]:
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_import_is_light():
    script = (
        "import sys, rm_plugin\n"
        "print('heavy:', *{'torch', 'transformers', 'trl', 'datasets', 'numpy', 'scipy', 'rich'} & set(sys.modules))"
    )
    assert in_fresh_process(script) == ["heavy:"]


@pytest.mark.parametrize("name", rm_plugin.__all__)
def test_public_name_resolves(name):
    assert getattr(rm_plugin, name) is not None
    assert name in dir(rm_plugin)


def test_public_names_are_not_those_of_modules():
    modules = [path.stem for path in importlib.resources.files(rm_plugin).iterdir() if path.suffix == ".py"]
    assert not set(modules) & set(rm_plugin.__all__), "importing the module would hide the name"


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match="no attribute 'RewardModle'; it has Comparison, load_rows, "):
        _ = rm_plugin.RewardModle


def test_rm_plugin_first_then_transformers(native):
    script = f"""
import rm_plugin, sys
from transformers import AutoConfig
assert "transformers.models.auto.modeling_auto" not in sys.modules and "rm_plugin.model.modeling" not in sys.modules
print(type(AutoConfig.from_pretrained({native!r})).__name__)
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
for auto in (AutoModelForSequenceClassification, AutoModel):
    print(type(auto.from_pretrained({native!r})).__name__)
"""
    assert in_fresh_process(script) == ["RewardModelConfig", "RewardModel", "RewardModel"]


@pytest.mark.parametrize("loaded", ["AutoConfig", "AutoModelForSequenceClassification"])
def test_transformers_first_then_rm_plugin(native, loaded):
    script = f"""
from transformers import {loaded}
import rm_plugin, transformers
print(type(transformers.AutoConfig.from_pretrained({native!r})).__name__)
print(type(transformers.AutoModelForSequenceClassification.from_pretrained({native!r})).__name__)
"""
    assert in_fresh_process(script) == ["RewardModelConfig", "RewardModel"]


def test_every_module_of_the_model_may_be_imported_first():
    script = """
import os, sys, torch
for name in ("adapters", "attention", "cards", "checkpoint", "config", "modeling", "packing"):
    if (child := os.fork()) == 0:
        __import__(f"rm_plugin.model.{name}")
        assert sys.modules["rm_plugin.model.modeling"].RewardModel
        os._exit(0)
    print(name, os.waitpid(child, 0)[1])
"""
    found = in_fresh_process(script)
    assert found[1::2] == ["0"] * 7, found
