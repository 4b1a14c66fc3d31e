"""A tokenizer that is loaded again is not built again; one of another file is not taken for it."""

from __future__ import annotations

from pathlib import Path

from pipeline.packaged import tokenizer_file
from pipeline.tokenization import HuggingFaceTokenizer


def test_a_changed_file_is_another_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    text = tokenizer_file().read_text()
    path.write_text(text)
    before = HuggingFaceTokenizer("t", path, bos="<|im_start|>", eom="<|im_end|>", silence="<|endoftext|>")
    path.write_text(text.replace("<|im_start|>", "<|om_start|>"))
    after = HuggingFaceTokenizer("t", path, bos="<|om_start|>", eom="<|im_end|>", silence="<|endoftext|>")
    assert before.sha256 != after.sha256
    assert before.decode([before.bos_id]) == "<|im_start|>"
    assert after.decode([after.bos_id]) == "<|om_start|>"
