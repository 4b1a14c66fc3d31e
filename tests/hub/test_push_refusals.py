"""What is pushed and what stays, and why a push is refused, told without any Hub."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import folders
from pipeline.asked import Asked, recording
from pipeline.card import write_card
from pipeline.cli.pushing import run_push
from pipeline.config import parse_config
from pipeline.errors import ConfigError, InputError, PipelineError
from pipeline.hub.checks import ALLOWED, refusals
from pipeline.hub.files import gather, parse_sums
from pipeline.hub.sending import Options, raise_refusals
from pipeline.manifest import Manifest, Result, need_manifest, output_of, write_manifest
from pipeline.shards import ShuffleConfig
from pipeline.stages.dataset import dataset_stage
from tests.hub.hub_client import REPO, ROOT, Client, make_build


def refused(build: Path) -> dict[str, str]:
    return {r.word: r.message for r in refusals(gather(build, REPO))}


def report(build: Path, failures: list[dict[str, str]]) -> None:
    folder = build / folders.REPORT
    folder.mkdir()
    (folder / "report.md").write_text("# Report\n")
    (folder / "notes.txt").write_text("mine\n")
    inputs = {"dataset": need_manifest(build / folders.DATASET).digest()}
    outputs = (output_of(folder / "report.md", folder),)
    write_manifest(folder, Manifest("evaluate", 1, "f", {}, inputs, outputs, {}, 1.0, {"gate_failures": failures}))
    write_card(build, "Sums")


def test_a_finished_build_is_not_refused(build: Path) -> None:
    assert refused(build) == {}
    assert refused(build / "dataset") == {}


def test_the_reasons_are_those_of_the_help() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "push", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert all(word in done.stdout for word in ALLOWED)


def test_without_a_card_or_with_one_of_other_data_it_is_refused(build: Path) -> None:
    card = build / "dataset" / "README.md"
    text = card.read_text()
    card.write_text(text.replace("# Sums", "# Sums, in other words"))
    assert refused(build) == {}
    convert = Result(build / "convert", need_manifest(build / "convert"), skipped=True)
    dataset_stage([convert], build / "dataset", ShuffleConfig(seed=1, shard_rows=10))
    assert set(refused(build)) == {"stale-card"}
    card.write_text("no front matter")
    assert set(refused(build)) == {"stale-card"}
    card.unlink()
    assert set(refused(build)) == {"no-card"}
    write_card(build, "Sums")
    assert refused(build) == {}


def edit(build: Path, more: str) -> None:
    card = build / "dataset" / "README.md"
    card.write_text(card.read_text().replace("# Sums\n", f"# Sums\n\n{more}\n\n", 1))


@pytest.mark.parametrize(
    "shown",
    [
        "![p](plots/silence.svg)",
        "![p](my%20pic.png 'title')",
        "![p](<my pic.png>)",
        "![p](card/lengths.svg#frag)",
        "![p](./card/lengths.svg?raw=true)",
        "![p][ref]\n\n[ref]: photo.JPG",
        "<picture><source srcset='photo.JPG 2x, a.webp'><img src=\"card/lengths.svg\"></picture>",
        '```html\n<img src="x.png">\n![x](x.png)\n```',
        '`<img src="x.png">`',
        '<!-- <img src="x.png"> -->',
        '<img src="https://x.org/y.png">',
        "![p](//x.org/y.png)",
        "![p](data:image/png;base64,AAAA)",
    ],
)
def test_a_picture_that_goes_may_be_shown_in_any_way(build: Path, shown: str) -> None:
    for name in ("my pic.png", "photo.JPG", "a.webp", "plots/silence.svg"):
        path = build / "dataset" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"picture")
    edit(build, shown)
    assert refused(build) == {}
    assert {"my pic.png", "photo.JPG", "a.webp"} < {u.path for u in gather(build, REPO).uploads}


@pytest.mark.parametrize(
    "shown",
    ["![p](plots/silence.svg)", "a <img src='plots/silence.svg'> b", "[![p](plots/silence.svg)](https://x.org)"],
)
def test_a_card_that_shows_a_picture_that_is_not_there_is_refused_and_told_how_to_keep_its_words(
    build: Path, shown: str
) -> None:
    edit(build, shown)
    message = refused(build)["stale-card"]
    assert "shows plots/silence.svg, which is not there: put it there, or take it out of the card" in message
    assert "move README.md, which was edited by hand, away, run multistream card" in message
    (build / "dataset" / "plots").mkdir()
    (build / "dataset" / "plots" / "silence.svg").write_text("<svg/>")
    assert refused(build) == {}


def test_a_picture_of_a_kind_that_does_not_go_is_told_apart_from_one_that_is_not_there(build: Path) -> None:
    (build / "dataset" / "scan.tiff").write_bytes(b"picture")
    edit(build, "![scan](scan.tiff)")
    assert "which does not go to the Hub: only .gif, .jpeg, .jpg, .png, .svg, .webp" in refused(build)["stale-card"]


def test_a_card_that_was_edited_by_hand_is_current(build: Path) -> None:
    card = build / "dataset" / "README.md"
    text = card.read_text()
    card.write_text(text.replace("pretty_name: Sums", "pretty_name: Better sums") + "\nMore at the end.\n")
    assert refused(build) == {}
    card.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert refused(build) == {}
    card_sent = next(u for u in gather(build, REPO).uploads if u.path == "README.md")
    assert card_sent.source == text.replace("OWNER/NAME", REPO).encode()
    (build / "dataset" / "croissant.json").write_text("no JSON")
    card.write_text(text.replace("pretty_name: Sums", "pretty_name: Better sums"))
    assert set(refused(build)) == {"stale-card"}


def test_a_failed_gate_refuses_and_the_report_goes_with_the_data(build: Path) -> None:
    report(build, [{"message": "the control is as good"}])
    assert refused(build) == {"failed-gate": "the evaluation's gate failed: the control is as good"}
    assert refused(build / "dataset").keys() == {"failed-gate"}
    paths = {u.path for u in gather(build, REPO).uploads}
    assert "report/report.md" in paths
    assert "report/notes.txt" not in paths


def test_unknown_licences_refuse_with_the_names_of_their_corpora(tmp_path: Path) -> None:
    out = make_build(tmp_path, 8, 10, license=None)
    assert "sums (8)" in refused(out)["unknown-license"]


def test_a_build_that_is_not_finished_refuses(build: Path) -> None:
    asked = {"name": "sums", "sources": [{"path": "sums.jsonl"}], "train": {"model": "smollm2"}}
    with recording(build, Asked(parse_config(asked, "test"), Path())):
        pass
    assert "checkpoint, report" in refused(build)["unfinished"]


def test_damaged_and_missing_data_cannot_be_pushed_at_all(build: Path, tmp_path: Path) -> None:
    shard = next((build / "dataset" / "train").glob("records-*"))
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(PipelineError, match="has changed since it was written"):
        gather(build, REPO)
    shard.unlink()
    with pytest.raises(PipelineError, match="is missing"):
        gather(build, REPO)
    (build / "dataset" / "manifest.json").unlink()
    with pytest.raises(PipelineError, match="no finished stage"):
        gather(build, REPO)
    with pytest.raises(InputError, match="no data set"):
        gather(tmp_path / "nothing", REPO)
    with pytest.raises(InputError, match="'convert'"):
        gather(build / "convert", REPO)


def test_what_is_somebody_elses_or_of_this_machine_does_not_go(build: Path) -> None:
    dataset = build / "dataset"
    before = gather(build, REPO).uploads
    for name in ("marks.jsonl", "notes.txt", ".README.md.7.tmp", ".hidden/a.svg", "train/records-99999-of-1.parquet"):
        (dataset / name).parent.mkdir(exist_ok=True)
        (dataset / name).write_text("mine")
    assert gather(build, REPO).uploads == before
    (dataset / "croissant.json").write_text('{"url": "OWNER/NAME"}')
    (dataset / "timeline.svg").write_text("<svg/>")
    sent = {u.path: u for u in gather(build, REPO).uploads}
    assert sent.keys() - {u.path for u in before} == {"timeline.svg"}
    assert sent["croissant.json"].source == f'{{"url": "{REPO}"}}'.encode()
    manifest = sent["manifest.json"].source
    assert isinstance(manifest, bytes)
    assert str(build).encode() not in manifest
    assert b'"seconds": 0.0' in manifest


def test_what_stays_is_named_by_the_dry_run(client: Client, build: Path) -> None:
    assert gather(build, REPO).left == ()
    for name in ("filtered-00000.parquet", ".gitignore", "marks.jsonl"):
        (build / "dataset" / name).write_text("*\n")
    (build / "marks.jsonl").write_text("")
    told = client.push(build, REPO, "--dry-run")
    assert "not part of the data set: .gitignore, filtered-00000.parquet, marks.jsonl\n" in told.stdout
    listed = json.loads(client.push(build, REPO, "--dry-run", "--json").stdout)
    assert listed["left"] == [".gitignore", "filtered-00000.parquet", "marks.jsonl"]
    assert client.push(build, REPO).returncode == 0
    head = client.hub.repos[REPO].head("main")
    assert head is not None
    assert head.files.keys() - {".gitattributes"} == {f["path"] for f in listed["files"]}


def test_what_marks_left_out_does_not_go(build: Path) -> None:
    dataset = build / "dataset"
    first = pq.read_table(next((dataset / "train").glob("records-*"))).column("id")[0].as_py()
    (build / "marks.jsonl").write_text(json.dumps({"id": first, "mark": "bad", "note": ""}) + "\n")
    convert = Result(build / "convert", need_manifest(build / "convert"), skipped=True)
    dataset_stage([convert], dataset, ShuffleConfig(shard_rows=10, marks="drop-bad"))
    write_card(build, "Sums")
    assert "filtered-00000.parquet" in {o.path for o in need_manifest(dataset).outputs}
    sent = {u.path: u for u in gather(build, REPO).uploads}
    assert "filtered-00000.parquet" not in sent
    assert b"filtered-00000" not in bytes(sent["manifest.json"].source)
    assert refused(build) == {}


def test_the_same_build_on_another_day_and_place_is_the_same_package(build: Path, tmp_path: Path) -> None:
    again = make_build(tmp_path / "again", 40, 10)
    digests = [[(u.path, u.sha256, u.bytes) for u in gather(out, REPO).uploads] for out in (build, again)]
    assert digests[0] == digests[1]


def test_the_list_of_digests_is_read_only_if_a_push_wrote_it(build: Path) -> None:
    *uploads, sums = gather(build, REPO).uploads
    assert isinstance(sums.source, bytes)
    assert parse_sums(sums.source.decode()) == {u.path: u.sha256 for u in uploads}
    assert parse_sums(f"{'0' * 64}  README.md\n") == {}
    assert parse_sums("") == {}


def test_all_reasons_are_told_at_once_with_the_words_that_allow_them(build: Path) -> None:
    report(build, [{"message": "the control is as good"}])
    (build / "dataset" / "README.md").unlink()
    with pytest.raises(PipelineError) as caught:
        raise_refusals(refusals(gather(build, REPO)))
    assert "--allow no-card" in str(caught.value)
    assert "--allow failed-gate" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("repo_id", "options"),
    [
        ("a/b/c", Options()),
        ("a b/c", Options()),
        ("a/b", Options(allow=frozenset({"everything"}))),
        ("a/b", Options(message=" ")),
        *(
            ("a/b", Options(revision=name))
            for name in (
                "",
                " ",
                "a b",
                "a..b",
                "-x",
                "/x",
                "x/",
                "x~1",
                "a.lock",
                "a//b",
                "a/.b",
                "a\nb",
                "x?y",
                "a@{b",
                "HEAD",
                "@",
                "refs/pr/1",
                "refs/heads/next",
                "0" * 40,
            )
        ),
    ],
)
def test_arguments_that_cannot_be_meant_are_bad_usage(build: Path, repo_id: str, options: Options) -> None:
    with pytest.raises(ConfigError):
        run_push(build, repo_id, options, dry=True, as_json=False)


@pytest.mark.parametrize("endpoint", ["", "nonsense", "ftp://x.org", "http://[::1", "https://"])
def test_an_address_of_no_hub_is_bad_usage(build: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(ConfigError, match="HF_ENDPOINT"):
        run_push(build, REPO, Options(), dry=True, as_json=False)
