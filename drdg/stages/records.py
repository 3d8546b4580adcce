"""Station 6, stages: what MLflow knows of a run: one parent, one child for each stage of each row."""

from __future__ import annotations

from drdg.config import Config, digest, to_yaml
from drdg.shards.location import Location
from drdg.stages.workspace import RowStages, Stage, content, scored
from drdg.tracking import Dataset, Handle, Tracking


def begin_parent(tracking: Tracking, config: Config) -> Handle:
    """Begin, or continue, the MLflow run that holds all stages of ``config``, by whatever ranks and backend."""
    tags = {**_tags(config), "drdg.digest": digest(config.model_dump(mode="json", exclude={"distributed"}))}
    parent = tracking.parent(config.run.name, tags, config.model_dump(mode="json"))
    parent.text(to_yaml(config), "config.yaml")
    return parent


def begin_shards(tracking: Tracking, parent: Handle, config: Config) -> Handle:
    """Begin, or continue, the MLflow run of building both domains' shards, which all rows share."""
    parts = {"source": config.source, "target": config.target, "shards": config.shards}
    tags = {**_tags(config), "drdg.kind": "stage", "drdg.digest": digest(parts), "drdg.stage": "shards"}
    tags["drdg.row"] = "all"
    return tracking.stage(
        "shards", parent.run_id, tags, {name: part.model_dump(mode="json") for name, part in parts.items()}
    )


def begin_stage(tracking: Tracking, parent: Handle, stage: Stage, config: Config) -> Handle:
    """Begin, or continue, the MLflow run of one stage."""
    tags = {
        **_tags(config),
        "drdg.kind": "stage",
        "drdg.digest": stage.digest,
        "drdg.stage": stage.name,
        "drdg.row": stage.row,
    }
    run = tracking.stage(f"{stage.row}/{stage.name}", parent.run_id, tags, config.model_dump(mode="json"))
    run.text(to_yaml(config), "config.yaml")
    return run


def inputs_of(stages: RowStages, stage: Stage) -> dict[str, Dataset]:
    """What a stage reads, by what it is to it: shards, known by their manifest, or orthophotos, by their content."""
    source = stages.training_shards if stage.name == "segment" else stages.source
    if stage.name == "evaluate":
        config = stages.config
        tops = digest(scored(config.target, config.evaluation.split))
        name = f"{archive_name(config.target.archive)} {config.evaluation.split}"
        return {"target": Dataset(name, tops, str(config.target.archive.root))}
    found = {"source": _shards(source)}
    if stage.name == "gan" or (stage.name == "segment" and stages.row.objective != "source_only"):
        found["target"] = _shards(stages.target)
    if stage.name == "segment" and stages.original is not None:
        found["original"] = _shards(stages.original.training_shards)
    return found


def _shards(place: Location) -> Dataset:
    return Dataset(str(place.manifest()["domain"]["archive"]), content(place), str(place))


def _tags(config: Config) -> dict[str, object]:
    source, target = (archive_name(domain.archive) for domain in (config.source, config.target))
    return {"drdg.seed": config.run.seed, "drdg.preset": config.preset, "drdg.direction": f"{source}_to_{target}"}


def archive_name(archive: object) -> str:
    """Short name of a configured archive."""
    bands = getattr(archive, "bands", "")
    kind = getattr(archive, "name", None) or getattr(archive, "kind", "archive")
    return f"{kind}_{bands}" if isinstance(bands, str) and bands else str(kind)
