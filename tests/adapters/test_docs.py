"""What docs/adapters.md shows runs, and its message is the real one."""

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "adapters.md"


def test_the_code_on_the_page_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) > 6
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        if block.startswith("from pvision.errors"):
            namespace["adapted"].unmerge()
        exec(compile(block, str(PAGE), "exec"), namespace)  # the page's own lines
    assert capsys.readouterr().out.strip() in text
    assert torch.is_tensor(namespace["features"])
    assert (tmp_path / "peft_folder" / "adapter_config.json").is_file()
