"""``python -m pipeline.training.stage_process``: one of the processes in which the train stage has torchrun train."""

from __future__ import annotations

from pathlib import Path

from pipeline import storage
from pipeline.errors import PipelineError
from pipeline.manifest import Result, need_manifest
from pipeline.training.launch import given_task, telling


def main() -> None:
    """Does the train stage's work, as one of several processes."""
    with telling((PipelineError, OSError)) as tell:
        from pipeline.stages.train import train_stage
        from pipeline.training.settings import TrainConfig

        task = given_task()
        storage.mount(*(storage.Mount(Path(local), url) for local, url in task["mounts"]))
        dataset = Path(task["dataset"])
        data = Result(dataset, need_manifest(dataset), skipped=True)
        config = TrainConfig(**task["config"])
        train_stage(data, task["model"], Path(task["directory"]), config, task["fresh"], tell)


if __name__ == "__main__":
    main()
