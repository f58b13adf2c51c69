"""Which checkpoint a killed run left whole.

newest_complete_checkpoint("my-reward-model")          # "my-reward-model/checkpoint-500", or None
"""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path

from safetensors import safe_open

logger = logging.getLogger(__name__)


def newest_complete_checkpoint(output_dir: str | Path) -> str | None:
    """The newest `checkpoint-N` folder that a kill left whole, or `None`.

    transformers writes `trainer_state.json` last and not atomically, so a folder counts when that file parses and
    names the folder's step, and when every file of tensors can be opened.

    Args:
        output_dir (`str` or `Path`): the run's folder.

    Returns:
        `str` or `None`: the checkpoint's folder.
    """
    folders = [p for p in Path(output_dir).glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    for folder in sorted(folders, key=lambda p: int(p.name.removeprefix("checkpoint-")), reverse=True):
        if _is_complete(folder):
            return str(folder)
        logger.warning("%s is not complete (a run was killed while saving it); an older checkpoint is used", folder)
    return None


def _is_complete(folder: Path) -> bool:
    try:
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        if f"checkpoint-{state['global_step']}" != folder.name:
            return False
        for file in folder.rglob("*.safetensors"):  # checks the length that the header promises
            with safe_open(file, framework="pt"):
                pass
    except Exception:  # whatever a half-written file makes its reader say
        return False
    # torch.save writes a zip archive, whose table of contents comes last.
    return all(zipfile.is_zipfile(file) for pattern in ("*.pt", "*.pth", "*.bin") for file in folder.rglob(pattern))
