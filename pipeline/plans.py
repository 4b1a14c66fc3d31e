"""What each stage of a build depends on by its configuration: looked up, not done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline import folders
from pipeline.asked import Asked
from pipeline.errors import PipelineError
from pipeline.manifest import Result
from pipeline.plan import Plan
from pipeline.sections import (
    convert_config,
    dedup_config,
    evaluate_config,
    ingest_config,
    input_source,
    shuffle_config,
    stages_of,
    synth_config,
    train_config,
)

#: The stages that each one reads, by folder.
_READS = {
    folders.CONVERT: (folders.INGEST,),
    folders.FILTER: (folders.CONVERT, folders.SYNTH),
    folders.DEDUP: (folders.INGEST, folders.CONVERT, folders.SYNTH, folders.FILTER),
    folders.MIX: (folders.CONVERT, folders.SYNTH, folders.FILTER, folders.DEDUP),
    folders.DATASET: (folders.CONVERT, folders.SYNTH, *folders.LEAVING_OUT),
    folders.CHECKPOINT: (folders.DATASET,),
    folders.CONTROL: (folders.DATASET,),
    folders.REPORT: (folders.DATASET, folders.CHECKPOINT, folders.CONTROL),
}


def inputs_of(name: str, asked: Asked) -> tuple[str, ...]:
    """The stages, by folder, that a stage of this configuration reads."""
    there = stages_of(asked.config)
    return tuple(other for other in _READS.get(name, ()) if other in there)


def plan_stage(name: str, asked: Asked, made: Mapping[str, Result], digests: bool = True) -> Plan:
    """What a stage should depend on. Writes nothing, and loads no model.

    ``made``: the finished stages that it reads, by folder. ``digests`` false: no input and no model is read, their digests
    are "". Raises PipelineError where the stage cannot be run: an input is not there.
    """
    config = asked.config
    if name == folders.INGEST:
        from pipeline.stages.ingest import survey

        return survey([input_source(s) for s in config.sources], asked.base, ingest_config(config), digests).plan
    if name == folders.CONVERT:
        from pipeline.stages.convert import plan as of_convert

        return of_convert(made[folders.INGEST].manifest, convert_config(config))
    if name == folders.SYNTH:
        return _of_synthesis(asked, digests)
    if name == folders.FILTER:
        from pipeline.filters import parse_filters
        from pipeline.stages.filter import plan as of_filter

        return of_filter([made[other].manifest for other in inputs_of(name, asked)], parse_filters(config.filters))
    if name == folders.DEDUP:
        from pipeline.stages.dedup import plan as of_dedup

        manifests = [made[other].manifest for other in inputs_of(name, asked) if other != folders.INGEST]
        return of_dedup(manifests, dedup_config(config, made[folders.INGEST].manifest))
    if name == folders.MIX:
        from pipeline.stages.mix import plan as of_mix

        assert config.mix is not None
        return of_mix([made[other].manifest for other in inputs_of(name, asked)], config.mix, config.seed)
    if name == folders.DATASET:
        from pipeline.selection import select
        from pipeline.stages.dataset import plan as of_dataset

        read = [made[other] for other in inputs_of(name, asked)]
        selection = select(config.shards.marks, read[0].directory.parent)
        return of_dataset([result.manifest for result in read], shuffle_config(config), selection)
    from pipeline.models import resolve_model

    if name in (folders.CHECKPOINT, folders.CONTROL):
        from pipeline.stages.train import plan as of_train

        model, settings = train_config(config, name)
        return of_train(made[folders.DATASET].manifest, model, resolve_model(model), settings, digests)
    from pipeline.stages.evaluate import plan as of_evaluate

    base = resolve_model((config.train or {}).get("model", "smollm2"))
    dataset, checkpoint = made[folders.DATASET].manifest, made[folders.CHECKPOINT].manifest
    return of_evaluate(dataset, checkpoint, base, evaluate_config(config, made.get(folders.CONTROL)), digests)


def _of_synthesis(asked: Asked, digests: bool) -> Plan:
    from pipeline.tokenization import load_tokenizer
    from synth.errors import SynthError
    from synth.material import read_material
    from synth.scenarios import load_scenarios
    from synth.stage import plan, resolve_paths

    settings = synth_config(asked.config)
    inputs: Mapping[str, str] = {}
    try:
        resolved = resolve_paths(settings, asked.base)
        scenarios = load_scenarios(resolved.scenarios)
        if resolved.conversations and digests:
            with TemporaryDirectory() as scratch:  # what counts is what is made of them
                inputs = read_material(resolved.conversations, None, Path(scratch)).inputs
        elif resolved.conversations:
            inputs = {"conversations": ""}
        convert = asked.config.convert
        return plan(settings, scenarios, load_tokenizer(convert.tokenizer), convert.lag, inputs)
    except SynthError as error:
        raise PipelineError(str(error)) from error
