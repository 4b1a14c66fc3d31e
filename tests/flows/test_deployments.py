"""What needs no server: the deployment's description, and which errors are tried again."""

from __future__ import annotations

import errno
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.errors import InputError, PipelineError
from pipeline.storage import StoreError

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["local", "ray", "dask"])
def test_prefect_yaml_describes_the_flow_that_is_there(name: str) -> None:
    from flows.build import build_multistream_dataset
    from flows.deployments import read_deployment

    found = read_deployment(CHECKOUT / "prefect.yaml", name)
    path, function = found["entrypoint"].split(":")
    assert (CHECKOUT / path).is_file()
    assert function == build_multistream_dataset.fn.__name__
    assert build_multistream_dataset.name == "build-multistream-dataset"
    assert found["work_pool"]["name"] == "multistream"
    known = build_multistream_dataset.parameters.properties
    assert set(known) == {"config", "out", "overrides", "fresh", "workers", "runner", "address", "gpus"}
    assert set(found["parameters"]) <= set(known)
    assert found["parameters"].get("runner", "local") == name


def test_every_stage_is_a_flow_that_deployments_find_by_its_name() -> None:
    import flows.build
    from flows.stages import STAGES

    assert list(flows.build.FLOWS) == list(STAGES)
    for name, found in flows.build.FLOWS.items():
        assert getattr(flows.build, name) is found
        assert found.name == f"multistream-{name}"
        assert {"config", "out", "overrides", "fresh"} <= set(found.parameters.properties)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runner": "spark"}, "--runner 'spark' is none of local, ray, dask"),
        ({"address": "127.0.0.1:6379"}, "add runner: ray or runner: dask"),
        ({"gpus": 1}, "gpus is what Ray is asked for"),
        ({"stage": "conver"}, "there is no stage 'conver': it is one of ingest, convert,"),
        ({"stage": "ingest", "workers": 2}, "stage ingest takes no workers"),
        ({"cron": "every day"}, "--cron 'every day'"),
        ({"cron": "0 0 30 2 *"}, "--cron '0 0 30 2 *' names no time that will come"),
        ({"cron": "* * * * * *"}, "--cron '* * * * * *' is none: it has five fields"),
        ({"cron": "0 25 * * *"}, "--cron '0 25 * * *'"),
        ({"interval": "5s"}, "--interval '5s' is no time between a minute and a year"),
        ({"interval": "9999999d"}, "--interval '9999999d' is no time between a minute and a year"),
        ({"interval": "0h"}, "--interval '0h' is none: it is a number with s, m, h or d, like 6h"),
        ({"cron": "0 3 * * *", "interval": "6h"}, "--cron and --interval are two schedules"),
        ({"timezone": "UTC"}, "add --cron or --interval"),
        ({"cron": "0 3 * * *", "timezone": "Berlin"}, "--timezone 'Berlin' is none"),
        ({"config": "nowhere.yaml"}, "configuration nowhere.yaml cannot be read"),
        ({"overrides": ("sed=1",)}, "unknown key 'sed' (did you mean 'seed'?)"),
        ({"overrides": ("train={stepps: 1}",)}, "unknown key 'train.stepps' (did you mean 'steps'?)"),
    ],
)
def test_what_cannot_be_deployed_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    from flows.deployments import Wanted, deploy

    monkeypatch.chdir(CHECKOUT)
    with pytest.raises(PipelineError) as error:
        list(deploy(Wanted(**options)))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cron", ["0 3 * * *", "0 0 29 2 *", "@daily"])
def test_schedules_that_come_are_taken(cron: str) -> None:
    from flows.deployments import Wanted, schedule_of

    found = schedule_of(Wanted(cron=cron, timezone="Europe/Berlin"))
    assert found is not None
    assert (found.cron, found.timezone) == (cron, "Europe/Berlin")
    every = schedule_of(Wanted(interval="90s"))
    assert every is not None
    assert every.interval == timedelta(seconds=90)


@pytest.mark.parametrize(
    ("wanted", "there", "expected"),
    [
        ({}, {"out": "/data/x", "workers": 3}, {"out": "/data/x", "workers": 3}),
        ({"workers": 0}, {"out": "/data/x", "workers": 3}, {"out": "/data/x", "workers": 0}),
        ({"overrides": ("seed=2",)}, {"overrides": ["seed=1"]}, {"overrides": ["seed=2"]}),
        ({}, {"overrides": ["seed=1"], "of": "an older version"}, {"overrides": ["seed=1"]}),
        ({"runner": "local"}, {"runner": "ray", "address": "auto", "gpus": 1, "workers": 3}, {"workers": 3}),
    ],
)
def test_parameters_that_are_there_stay_unless_others_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any], there: dict[str, Any], expected: dict[str, Any]
) -> None:
    from flows.deployments import Wanted, parameters_of

    monkeypatch.chdir(CHECKOUT)
    given = {"config": "examples/configs/demo.yaml"}
    assert parameters_of(Wanted(**wanted), given, there) == given | expected


@pytest.mark.parametrize("parameters", ["", "    parameters:\n"])
def test_a_deployment_without_parameters_takes_those_of_the_flow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, parameters: str
) -> None:
    from flows.deployments import Wanted, parameters_of, read_deployment

    path = tmp_path / "prefect.yaml"
    path.write_text(f"deployments:\n  - name: local\n    entrypoint: flows/build.py:x\n{parameters}")
    monkeypatch.chdir(CHECKOUT)
    assert parameters_of(Wanted(workers=2), read_deployment(path, "local")["parameters"]) == {"workers": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("deployments: 5", "holds no deployment called 'local'"),
        ("deployments: [{name: local}]", "has no entrypoint of the form FILE:FLOW"),
        ("deployments: [{name: local, entrypoint: 'a:b', parameters: 5}]", "parameters of deployment 'local' is no"),
    ],
)
def test_a_file_that_describes_no_deployment_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    from flows.deployments import read_deployment

    (tmp_path / "prefect.yaml").write_text(text)
    with pytest.raises(PipelineError) as error:
        read_deployment(tmp_path / "prefect.yaml", "local")
    assert message in str(error.value)


def test_ray_without_one_server_for_all_workers_is_refused() -> None:
    pytest.importorskip("prefect_ray")
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.runners import Place

    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(PipelineError, match=r"runner: ray needs one Prefect server .* PREFECT_API_URL"),
    ):
        Place("ray", "127.0.0.1:6379").check()


@pytest.mark.parametrize(
    ("runner", "address"), [("ray", "127.0.0.1:9"), ("ray", "ray://127.0.0.1:9"), ("dask", "127.0.0.1:9")]
)
def test_a_cluster_that_does_not_answer_is_one_line(runner: Any, address: str) -> None:
    from flows.runners import Place, cluster

    with (
        pytest.raises(PipelineError, match=f"no {runner} cluster answers at {address} .*: is its head running"),
        cluster(Place(runner, address)),
    ):
        pass


@pytest.mark.parametrize("address", ["head", "ray://head", "127.0.0.1:many"])
def test_an_address_without_a_port_is_refused(address: str) -> None:
    from flows.runners import Place, cluster

    with pytest.raises(PipelineError, match="write HOST:PORT"), cluster(Place("ray", address)):
        pass


def test_deploy_without_a_server_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.deployments import Wanted, deploy

    monkeypatch.chdir(CHECKOUT)
    with temporary_settings(restore_defaults={PREFECT_API_URL}), pytest.raises(PipelineError) as error:
        list(deploy(Wanted()))
    message = str(error.value)
    assert "prefect server start" in message
    assert "PREFECT_API_URL=http://127.0.0.1:4200/api" in message
    assert "\n" not in message


def test_deploy_to_a_server_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.deployments import Wanted, deploy

    monkeypatch.chdir(CHECKOUT)
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(PipelineError, match=r"127\.0\.0\.1:9/api does not answer"),
    ):
        list(deploy(Wanted()))


def test_deploy_outside_of_a_checkout_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from flows.deployments import Wanted, deploy

    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match="root of a checkout"):
        list(deploy(Wanted()))


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (ConnectionResetError("reset"), True),
        (OSError(errno.EIO, "Input/output error"), True),
        (StoreError("s3://bucket/x: slow down"), True),
        (BrokenProcessPool("killed"), True),
        (httpx.ConnectError("no route"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (OSError(errno.EROFS, "Read-only file system"), False),
        (FileNotFoundError(2, "gone"), False),
        (InputError("data.jsonl is not there"), False),
        (ValueError("a bug"), False),
    ],
)
def test_only_errors_that_may_pass_are_tried_again(error: Exception, retried: bool) -> None:
    from prefect.states import Failed

    from flows.retries import is_worth_a_retry

    nothing: Any = None
    assert is_worth_a_retry(nothing, nothing, Failed(data=error)) is retried


def test_a_lost_worker_of_ray_is_tried_again() -> None:
    exceptions = pytest.importorskip("ray.exceptions")
    from flows.retries import may_pass

    assert may_pass(exceptions.WorkerCrashedError())
    assert may_pass(exceptions.NodeDiedError("the node is gone"))
    assert not may_pass(exceptions.RuntimeEnvSetupError("bad"))


def test_waits_grow_and_differ_by_chance() -> None:
    from flows.retries import RETRIES, waits

    several = [waits() for _ in range(20)]
    for found in several:
        assert len(found) == RETRIES
        assert all(2**i <= wait <= 1.5 * 2**i for i, wait in enumerate(found))
    assert len({found[0] for found in several}) > 1
