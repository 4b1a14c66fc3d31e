"""The stages of a build that belong together: what an earlier build of other data left in its folder does not."""

from __future__ import annotations

from pathlib import Path

from pipeline import folders
from pipeline.manifest import Manifest, read_manifest

#: What each stage is made of, by folder and by the name that its manifest gives the input.
_MADE_OF = {
    folders.CONVERT: {folders.INGEST: "ingest"},
    folders.DATASET: {
        **{name: name for name in folders.LEAVING_OUT},
        folders.CONVERT: "convert",
        folders.SYNTH: "synthesize",
    },
    folders.CHECKPOINT: {folders.DATASET: "dataset"},
    folders.CONTROL: {folders.DATASET: "dataset"},
    folders.REPORT: {folders.DATASET: "dataset", folders.CHECKPOINT: "checkpoint"},
}


def manifests_of(out: Path) -> dict[str, Manifest]:
    """The finished stages in a folder, by their folders, without those that another data set than the one there belongs to.

    Where there is no data set yet, all that are there.
    """
    there = {name: m for name in folders.STAGES if (m := read_manifest(out / name)) is not None}
    if folders.DATASET not in there:
        return there
    left = dict(there)
    for stage, inputs in _MADE_OF.items():
        for source, name in inputs.items():
            if stage not in left or source not in there:
                continue
            if left[stage].inputs.get(name) != there[source].digest():
                left.pop(source if stage == folders.DATASET else stage)
    return left
