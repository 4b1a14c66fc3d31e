"""What needs no server: the deployment's description, and which errors are tried again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError, PipelineError

CHECKOUT = Path(__file__).resolve().parents[2]


def test_prefect_yaml_describes_the_flow_that_is_there() -> None:
    from flows.build import build_multistream_dataset
    from flows.deployments import read_deployment

    found = read_deployment(CHECKOUT / "prefect.yaml", "local")
    path, name = found["entrypoint"].split(":")
    assert (CHECKOUT / path).is_file()
    assert name == build_multistream_dataset.fn.__name__
    assert build_multistream_dataset.name == "build-multistream-dataset"
    assert found["work_pool"]["name"] == "multistream"
    known = build_multistream_dataset.parameters.properties
    assert set(known) == {"config", "out", "overrides", "fresh", "workers"}
    assert set(found["parameters"]) <= set(known)


def test_deploy_without_a_server_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.deployments import deploy_local

    monkeypatch.chdir(CHECKOUT)
    with temporary_settings(restore_defaults={PREFECT_API_URL}), pytest.raises(PipelineError) as error:
        list(deploy_local())
    message = str(error.value)
    assert "prefect server start" in message
    assert "PREFECT_API_URL=http://127.0.0.1:4200/api" in message
    assert "\n" not in message


def test_deploy_to_a_server_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.deployments import deploy_local

    monkeypatch.chdir(CHECKOUT)
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(PipelineError, match=r"127\.0\.0\.1:9/api does not answer"),
    ):
        list(deploy_local())


def test_deploy_outside_of_a_checkout_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from flows.deployments import deploy_local

    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match="root of a checkout"):
        list(deploy_local())


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (ConnectionResetError("reset"), True),
        (OSError(5, "Input/output error"), True),
        (FileNotFoundError(2, "gone"), False),
        (InputError("data.jsonl is not there"), False),
        (ValueError("a bug"), False),
    ],
)
def test_only_passing_io_errors_are_tried_again(error: Exception, retried: bool) -> None:
    from prefect.states import Failed

    from flows.build import is_worth_a_retry

    nothing: Any = None
    assert is_worth_a_retry(nothing, nothing, Failed(data=error)) is retried
