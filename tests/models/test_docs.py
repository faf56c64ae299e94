"""What docs/vision_transformers.md shows runs, and its message is the real one."""

import re
from pathlib import Path

import yaml

from pvision.models import GlyphViT, VisionTransformer

PAGE = Path(__file__).parents[2] / "docs" / "vision_transformers.md"
TEXT = PAGE.read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_code_on_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert len(blocks("python")) > 5
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks("python"):
        exec(compile(block, str(PAGE), "exec"), namespace)  # the page's own lines
    assert capsys.readouterr().out.strip() in TEXT
    assert namespace["features"].shape == (2, 384)
    assert len(namespace["vit"].blocks) == 8


def test_the_settings_on_the_page_are_arguments():
    glyphs, dinov2 = (yaml.safe_load(block) for block in blocks("yaml"))
    assert glyphs["model"]["init_args"]["backbone"]["class_path"] == GlyphViT.__name__
    settings = dinov2["backbone"]["init_args"]
    assert settings.pop("weights").endswith(".safetensors")
    assert len(VisionTransformer(**settings).blocks) == 8
