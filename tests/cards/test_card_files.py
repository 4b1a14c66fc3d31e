"""What a card promises is so: the Hub's reader takes its front matter, ``datasets`` loads every configuration that it names."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from card_cases import HOSTILE, build
from huggingface_hub import DatasetCard, DatasetCardData

from pipeline.card import make_card, render_card, renew_card, title_of, write_card
from pipeline.config import load_config
from pipeline.errors import InputError
from pipeline.front_matter import features
from pipeline.manifest import Manifest, output_of, read_manifest, write_manifest
from pipeline.tables import RECORDS, TOKENS

MIXED = {"open": "MIT", "shared": "CC-BY-SA-4.0", "limited": "CC-BY-NC-4.0", "unsaid": None}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("card") / "out", {"towns": "MIT", "rivers": "Apache-2.0"}, lang="en")


@pytest.fixture(scope="module")
def card(out: Path) -> DatasetCard:
    return DatasetCard(write_card(out, "Weather").read_text())


def bodies(folder: Path) -> dict[str, bytes]:
    names = [*folder.glob("*.md"), *folder.glob("*.json"), *folder.glob("card/*")]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in names if p.name != "manifest.json"}


def test_the_hubs_reader_takes_the_front_matter(card: DatasetCard, out: Path) -> None:
    assert isinstance(card.data, DatasetCardData)
    data = card.data.to_dict()
    assert (data["pretty_name"], data["license"], data["language"]) == ("Weather", ["apache-2.0", "mit"], ["en"])
    assert [c["config_name"] for c in data["configs"]] == ["records", "tokens-smollm2"]
    rows = {
        split: sum(pq.read_metadata(p).num_rows for p in (out / "dataset" / split).glob("records-*"))
        for split in ("train", "test")
    }
    for info in data["dataset_info"]:
        assert {s["name"]: s["num_examples"] for s in info["splits"]} == rows
        assert info["dataset_size"] == sum(s["num_bytes"] for s in info["splits"]) > 0
        files = out.glob(f"dataset/*/{info['config_name']}-*.parquet")
        assert info["download_size"] == sum(p.stat().st_size for p in files)


@pytest.mark.parametrize("schema", [RECORDS, TOKENS])
def test_features_are_written_as_datasets_writes_them(schema: Any) -> None:
    from datasets import Features

    assert features(schema) == Features.from_arrow_schema(schema)._to_yaml_list()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("config", "schema"), [("records", RECORDS), ("tokens-smollm2", TOKENS)])
def test_every_configuration_loads_with_its_types_and_equals_the_shards(
    out: Path, card: DatasetCard, tmp_path: Path, config: str, schema: Any, streaming: bool
) -> None:
    from datasets import Features, load_dataset

    for split in ("train", "test"):
        loaded = load_dataset(
            str(out / "dataset"), config, split=split, streaming=streaming, cache_dir=str(tmp_path / "cache")
        )
        assert loaded.features == Features.from_arrow_schema(schema)
        paths = sorted((out / "dataset" / split).glob(f"{config}-*.parquet"))
        assert list(loaded) == [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_the_default_configuration_is_the_records(out: Path, card: DatasetCard, tmp_path: Path) -> None:
    from datasets import load_dataset

    assert "events" in load_dataset(str(out / "dataset"), split="test", cache_dir=str(tmp_path)).column_names


def test_pictures_are_there_and_nothing_else_is_linked(out: Path, card: DatasetCard) -> None:
    linked = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", card.text)
    assert "card/timeline.svg" in linked
    assert "card/saved.svg" in linked
    assert {f"card/{p.name}" for p in (out / "dataset" / "card").iterdir()} == set(linked)


def test_the_same_build_gives_the_same_bytes_in_another_folder(tmp_path: Path) -> None:
    made = []
    for place in ("one", "two"):
        other = build(tmp_path / place / "out", {"towns": "MIT"})
        write_card(other, "Weather")
        made.append(bodies(other / "dataset"))
    assert made[0] == made[1]
    assert not any(str(tmp_path).encode() in content for content in made[0].values())


def test_a_card_is_renewed_when_a_picture_is_gone_and_loses_what_it_no_longer_shows(
    out: Path, card: DatasetCard
) -> None:
    folder = out / "dataset"
    before = bodies(folder)
    (folder / "card" / "timeline.svg").unlink()
    renew_card(out, "Weather")
    assert bodies(folder) == before
    (folder / "card" / "report-loss.svg").write_text("<svg/>")
    (folder / "card" / "latency.svg").unlink()
    renew_card(out, "Weather")
    assert bodies(folder) == before


def test_pictures_of_others_stay_beside_a_card(tmp_path: Path) -> None:
    out = build(tmp_path / "out", {"towns": "MIT"}, count=3)
    write_card(out, "One")
    (out / "dataset" / "card" / "mine.svg").write_text("<svg/>")
    write_card(out, "Two")
    assert (out / "dataset" / "card" / "mine.svg").read_text() == "<svg/>"


def test_sources_have_digest_format_licence_and_counts(out: Path, card: DatasetCard) -> None:
    manifest = json.loads((out / "ingest" / "manifest.json").read_text())
    digest = next(d for name, d in manifest["inputs"].items() if name.startswith("towns/"))
    (row,) = [line for line in card.text.splitlines() if line.startswith("| towns |")]
    assert row.split(" | ")[1:5] == [digest[:16], "1", "openai_messages", "MIT (12)"]
    assert row.endswith("| 1 |")
    assert "| convert | not_json | 2 |" in card.text


def test_a_corpus_of_which_nothing_is_left_is_told(tmp_path: Path) -> None:
    text = render_card(build(tmp_path / "out", {"towns": "MIT", "ruins": "MIT"}, count=4, lost=["ruins"]), "One")
    (row,) = [line for line in text.splitlines() if line.startswith("| ruins |")]
    assert row.endswith("| 0 | 0 | 1 |")
    assert re.search(r"\| convert \| not_json \| 2 \| [\d.]+% \| ruins \(1\), towns \(1\) \|", text)
    assert "as they are named here: towns. Cite" in text


def test_languages_of_programs_are_not_those_of_the_data(tmp_path: Path) -> None:
    messages = {"0": {"lang": "py"}, "1": {"language": "cpp"}, "2": {"lang": "ts"}, "3": {"lang": "de-AT"}}
    out = build(tmp_path / "out", {"towns": "MIT"}, count=4, lang="go", more=messages)
    assert "language" not in DatasetCard(render_card(out, "One")).data.to_dict()


def test_addresses_in_names_are_no_links(tmp_path: Path) -> None:
    from markdown_it import MarkdownIt

    hostile = "www.evil.com WWW.evil.com http:∕∕evil.com https://www.evil.com a@evil.com"
    out = build(tmp_path / "out", {hostile.replace("/", "∕"): hostile}, count=3)
    body = render_card(out, hostile).split("\n---\n", 1)[1]
    assert not re.search(r"www\.|https?://(?!arxiv)|@evil", body.split("## Citation")[0], re.IGNORECASE)
    linked = set(re.findall(r'href="([^"]+)"', MarkdownIt("commonmark").render(body)))
    assert linked == {"https://arxiv.org/abs/2605.12460"}


def test_licences_that_do_not_go_together_are_named(tmp_path: Path) -> None:
    out = build(tmp_path / "out", MIXED, count=3)
    made = make_card(out, "Mixed")
    data = DatasetCard(made.text).data.to_dict()
    assert data["license"] == ["cc-by-nc-4.0", "cc-by-sa-4.0", "mit", "unknown"]
    told = {c.message.split(":")[0].split(" and ")[0]: c for c in made.conflicts}
    assert any(c.licenses == ("unknown",) and c.corpora == ("unsaid",) for c in made.conflicts)
    assert any(set(c.licenses) == {"CC-BY-SA-4.0", "CC-BY-NC-4.0"} for c in made.conflicts)
    assert all(message in made.text for message in told)


def test_a_single_known_licence_is_no_warning(tmp_path: Path) -> None:
    made = make_card(build(tmp_path / "out", {"towns": "MIT"}, count=3), "One")
    assert made.conflicts == ()
    assert "WARNING" not in made.text


@pytest.mark.parametrize("unsaid", ["License of the Town", "CC-BY-SA-2.0"])
def test_a_licence_that_the_hub_does_not_know_keeps_its_name(tmp_path: Path, unsaid: str) -> None:
    data = DatasetCard(render_card(build(tmp_path / "out", {"towns": unsaid}, count=3), "One")).data.to_dict()
    assert (data["license"], data["license_name"]) == ("other", unsaid.lower().replace(" ", "-"))
    assert "language" not in data


def tables(text: str) -> Iterator[list[str]]:
    """The tables of a text, as their lines."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        yield block.splitlines()


def test_hostile_names_stay_names(tmp_path: Path) -> None:
    out = build(tmp_path / "out", {HOSTILE.replace("/", "∕"): HOSTILE}, count=3)
    text = write_card(out, HOSTILE).read_text()
    data = DatasetCard(text).data.to_dict()
    assert "\n" not in data["pretty_name"]
    assert [c["config_name"] for c in data["configs"]] == ["records", "tokens-smollm2"]
    assert not re.search(r"<script>|\x1b|\u202e|\[x\]\(y\)|\*\*z\*\*", text.split("\n---\n", 1)[1])
    for lines in tables(text):
        assert len({line.count("|") for line in lines}) == 1, lines
    for picture in (out / "dataset" / "card").glob("*.svg"):
        assert "<script" not in picture.read_text()
        assert "\x1b" not in picture.read_text()
    json.loads((out / "dataset" / "croissant.json").read_text())


def test_a_folder_without_a_data_set_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no data set"):
        render_card(tmp_path, "None")
    assert title_of(tmp_path) == "Multi-stream conversations"


LOSS = {"text_loss": 2.5, "text_interval": [2.0, 3.0], "silence_loss": None, "silence_interval": None}
REPORT = {
    "passed": False, "failures": [{"code": "row", "message": "worse on a|b"}], "confidence": 0.95, "control": None,
    "before": {"records": 3, "total": LOSS, "streams": {}},
    "after": {"records": 3, "total": {**LOSS, "text_loss": 2.25}, "streams": {"assistant": LOSS}},
}  # fmt: skip


def evaluated(out: Path) -> Path:
    """A build with a report of its data set."""
    manifest = read_manifest(out / "dataset")
    assert manifest is not None
    (out / "report").mkdir()
    (out / "report" / "report.json").write_text(json.dumps(REPORT))
    (out / "report" / "loss.png").write_bytes(b"\x89PNG")
    outputs = tuple(output_of(out / "report" / name, out / "report") for name in ("loss.png", "report.json"))
    inputs = {"dataset": manifest.digest()}
    write_manifest(out / "report", Manifest("evaluate", 2, "f", {}, inputs, outputs, {"in": 3, "out": 3}, 1.0, {}))
    return out


def test_the_report_is_part_of_the_card_while_it_is_of_this_data_set(tmp_path: Path) -> None:
    out = evaluated(build(tmp_path / "out", {"towns": "MIT"}, count=4))
    folder = out / "dataset"
    text = write_card(out, "Weather").read_text()
    assert "**failed**. worse on a&#124;b." in text
    assert "| text, per token | 2.500 [2.000, 3.000] | 2.250 [2.000, 3.000] |" in text
    assert (folder / "card" / "report-loss.png").read_bytes() == b"\x89PNG"
    (out / "report" / "manifest.json").unlink()
    renew_card(out, "Weather")
    assert not (folder / "card" / "report-loss.png").exists()
    assert "there is no evaluation" in (folder / "README.md").read_text()


def test_the_command_is_shown_without_places_and_secrets(tmp_path: Path) -> None:
    out = build(tmp_path / "out", {"towns": "MIT"}, count=3)
    config = tmp_path / "mine.yaml"
    config.write_text("name: weather\ntitle: Weather everywhere\nsources: [{path: a.jsonl}]\n")
    sets = ["convert.align=turns", "convert.tokenizer=smollm2", "synth.engine.api_key=s3cret", f"x.path={tmp_path}"]
    effective = load_config(config, []).model_dump(mode="json")
    asked = {"config": str(config), "overrides": sets, "base": str(tmp_path), "failed": None, "effective": effective}
    (out / "build.json").write_text(json.dumps(asked))
    text = render_card(out, title_of(out))
    assert "# Weather everywhere" in text
    assert (
        "multistream build mine.yaml --out DIR --set convert.align=turns --set convert.tokenizer=smollm2 "
        "--set synth.engine.api_key=… --set x.path=…\n"
    ) in text
    assert "s3cret" not in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("config", ["records", "tokens-smollm2"])
def test_croissant_is_valid_and_reads_the_shards(out: Path, card: DatasetCard, config: str) -> None:
    mlc = pytest.importorskip("mlcroissant")
    folder = out / "dataset"
    found = mlc.Dataset(jsonld=str(folder / "croissant.json"), mapping={"repo": str(folder)})
    assert not found.metadata.ctx.issues.errors
    assert set(found.metadata.license) == {"MIT", "Apache-2.0"}
    ids = sorted(row[f"{config}/rows/id"].decode() for row in found.records(f"{config}/rows"))
    assert ids == sorted(i for p in folder.glob(f"*/{config}-*.parquet") for i in pq.read_table(p)["id"].to_pylist())
    for file in json.loads((folder / "croissant.json").read_text())["distribution"]:
        if file["@type"] == "cr:FileObject" and file["@id"] != "repo":
            assert (folder / file["contentUrl"]).is_file()


def renamed(out: Path, *tokenizers: str) -> Path:
    """The build with its token shards under the names of other tokenizers."""
    folder = out / "dataset"
    manifest = read_manifest(folder)
    assert manifest is not None
    others = [o for o in manifest.outputs if "/tokens-" not in o.path]
    for output in manifest.outputs:
        if "/tokens-" in output.path:
            for tokenizer in tokenizers:
                copy = folder / output.path.replace("tokens-smollm2-", f"tokens-{tokenizer}-")
                shutil.copy(folder / output.path, copy)
                others.append(output_of(copy, folder, output.rows))
            (folder / output.path).unlink()
    write_manifest(folder, dataclasses.replace(manifest, outputs=tuple(others)))
    return out


def named(tokenizer: str) -> str:
    """The configuration of a tokenizer: without what `datasets` refuses in a name."""
    return f"tokens-{tokenizer}".replace("|", "_")


@pytest.mark.parametrize("names", [("my-tok",), ("my", "my-tok", "my-tok-2"), ("my [v2]", "a|`b` (é)")])
def test_tokenizers_of_any_name_have_a_configuration_each(names: tuple[str, ...], tmp_path: Path) -> None:
    from datasets import load_dataset

    out = renamed(build(tmp_path / "out", {"towns": "MIT"}, count=4), *names)
    text = write_card(out, "One").read_text()
    data = DatasetCard(text).data.to_dict()
    assert [c["config_name"] for c in data["configs"]] == ["records", *(named(name) for name in sorted(names))]
    rows = sum(pq.read_metadata(p).num_rows for p in out.glob("dataset/*/records-*"))
    for info in data["dataset_info"]:
        assert sum(split["num_examples"] for split in info["splits"]) == rows
    metadata = json.loads((out / "dataset" / "croissant.json").read_text())
    patterns = {d["name"]: d["includes"].removeprefix("*/") for d in metadata["distribution"] if "includes" in d}
    for config, pattern in patterns.items():
        files = {p.name for p in (out / "dataset").glob(f"*/{pattern}")}
        assert {name.rsplit("-", 3)[0].replace("|", "_") for name in files} == {config}
    for lines in tables(text):
        assert len({line.count("|") for line in lines}) == 1, lines
    for name in names:
        loaded = load_dataset(str(out / "dataset"), named(name), split="train", cache_dir=str(tmp_path / "cache"))
        assert loaded.num_rows == sum(pq.read_metadata(p).num_rows for p in out.glob("dataset/train/records-*"))


def test_nothing_is_said_of_rejects_where_no_stage_tells(tmp_path: Path) -> None:
    out = build(tmp_path / "out", {"towns": "MIT"}, count=4, spoiled=False)
    assert "Nothing: all that came in is here." in render_card(out, "One")
    shutil.copytree(out / "dataset", tmp_path / "alone" / "dataset")
    text = render_card(tmp_path / "alone", "One")
    assert "Nothing: all" not in text
    assert "rejected cannot be told" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| towns |")]
    assert row.endswith("| – |")
