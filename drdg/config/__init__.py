"""Station 0, configuration: every knob, the two presets, and how files and overrides become one of them."""

from drdg.config.loading import digest, known_keys, load_config, to_yaml
from drdg.config.schema import (
    SIDE_MULTIPLE,
    ArchiveConfig,
    BerhuConfig,
    Config,
    CriticConfig,
    DescribedArchive,
    DistributedConfig,
    DomainConfig,
    DsmConfig,
    EvaluationConfig,
    GanConfig,
    GeneratorConfig,
    LossConfig,
    PlateauConfig,
    PotsdamArchive,
    RunConfig,
    SegmentationConfig,
    ShardsConfig,
    SyntheticConfig,
    TrackingConfig,
    TranslationConfig,
    VaihingenArchive,
)

__all__ = [name for name in dir() if name[0].isupper() or name in ("digest", "known_keys", "load_config", "to_yaml")]
