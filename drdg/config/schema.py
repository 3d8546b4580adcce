"""Every knob of the suite: validated, documented, the paper's recipe as default; those of archives and rows beside.

Sources: "paper" is arXiv 2208.09823; "released code" is the authors' repository at commit 1dc0be8. Where the two
disagree the default follows the paper or its evident correction, and the ``authors`` preset (``presets.py``) holds
what the released code does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from drdg.config.archives import ArchiveConfig, PotsdamArchive, Section, VaihingenArchive
from drdg.config.rows import (
    BenjdiraConfig,
    CriticConfig,
    CycleGanConfig,
    DualGanConfig,
    GeneratorConfig,
    LossConfig,
    MucssConfig,
    OracleConfig,
    OutputSpaceConfig,
)
from drdg.config.sweep import SweepConfig

# The generator and the critic halve their input 7 times (paper, section II-C: seven convolutions of stride 2), so only
# multiples of 2**7 come back at the size they went in.
SIDE_MULTIPLE = 128


class DomainConfig(Section):
    """One domain: an archive and how it is cut into tiles."""

    archive: ArchiveConfig
    tile: int
    """Side of a tile in pixels, a multiple of 128. Paper, section III-A: 896 (source), 512 (target)."""
    stride: int = Field(ge=1)
    """Step between tiles in pixels. 896 and 256 give the field's 1368 Potsdam and 1696 Vaihingen tiles."""
    edge: Literal["drop", "shift"] = "drop"
    """What happens at the right and lower edge: ``drop`` the remainder (as the field does) or ``shift`` the last window
    inwards so that every pixel is in a tile."""
    split: str = "all"
    """Which split's TOPs become tiles. The paper adapts on all target images, labels unused (transductive)."""
    shards: str | None = None
    """Where shards of this domain that were built elsewhere lie: a folder, a URL, or ``pipe:COMMAND`` with ``{}`` for a
    file's name (``pipe:aws s3 cp s3://bucket/potsdam/{} -``); null to build them from the archive."""

    @field_validator("tile")
    @classmethod
    def _tile_is_whole(cls, tile: int) -> int:
        if tile < SIDE_MULTIPLE or tile % SIDE_MULTIPLE:
            below = max(0, tile // SIDE_MULTIPLE * SIDE_MULTIPLE)
            near = [str(side) for side in (below, below + SIDE_MULTIPLE) if side]
            raise ValueError(
                f"{tile} is not a multiple of {SIDE_MULTIPLE} above 0, which the 7-level networks need; "
                f"take {' or '.join(near)}"
            )
        return tile


class SyntheticConfig(Section):
    """Generated towns in the two ISPRS layouts, written before the first stage when this section is present."""

    root: Path = Path("data/synthetic")
    """Folder that gets ``Potsdam`` and ``Vaihingen``."""
    seed: int = 0
    """Seed of the towns; independent of ``run.seed`` so that training seeds share their data."""
    source_tops: int = Field(default=4, ge=1, le=38)
    """Number of Potsdam-like TOPs."""
    target_tops: int = Field(default=4, ge=1, le=33)
    """Number of Vaihingen-like TOPs."""
    source_side: int = Field(default=1024, ge=SIDE_MULTIPLE)
    """Side of a Potsdam-like TOP in pixels of 5 cm (the real ones: 6000)."""
    target_side: int = Field(default=576, ge=SIDE_MULTIPLE)
    """Side of a Vaihingen-like TOP in pixels of 9 cm (the real ones: about 2000)."""


# -------------------------------------------------------------------------------------------------------------- shards


class ShardsConfig(Section):
    """WebDataset tar shards built from the archives."""

    root: Path = Path("runs/shards")
    """Folder under which every archive's shards get a folder of their own, named by their plan's digest."""
    samples_per_shard: int = Field(default=64, ge=1)
    """Tiles per tar file. 64 tiles of 896 px are about 300 MB, what object stores and parallel file systems like."""
    seed: int = 0
    """Seed of the global shuffle that spreads a TOP's tiles over the shards."""
    codec: Literal["raw", "zstd"] = "raw"
    """``raw``: images, heights and labels as plain arrays, read at memory speed. ``zstd``: each compressed by itself;
    smaller on disk and on the way from a remote store, slower to read."""
    zstd_level: int = Field(default=1, ge=1, le=19)
    """Zstandard's level (``codec=zstd`` only). Levels above 1 take far longer and save little on aerial images."""
    cache: Path | None = None
    """Folder on each node for copies of remote shards (``source.shards``, ``target.shards``), which stay there; null
    for one of yours in the system's temporary folder (``TMPDIR``), which on clusters lies on the node."""


class DsmConfig(Section):
    """How heights become the networks' input; applied when a tile is read, so changing it needs no new shards."""

    rule: Literal["dataset", "top", "height_above_ground"] = "dataset"
    """``dataset``: minimum-maximum over the domain's TOPs (paper, section III-A, reads so). ``top``: over each TOP.
    ``height_above_ground``: height over the local ground, divided by ``ceiling_m``."""
    ceiling_m: float = Field(default=30.0, gt=0)
    """Height above ground in metres that becomes 1 (rule ``height_above_ground`` only). 30 m clears town roofs."""
    range: Literal["unit", "symmetric"] = "unit"
    """``unit``: [0, 1] (paper). ``symmetric``: [-1, 1], the released code's, half of which its sigmoid cannot reach."""


# ------------------------------------------------------------------------------------------------------------ training


class PlateauConfig(Section):
    """Learning rate that falls when its watched loss stops falling, or with time."""

    kind: Literal["plateau", "constant", "linear"] = "plateau"
    """``plateau``: as the knobs below say. ``constant`` keeps the first learning rate. ``linear`` keeps it for half of
    the training and lets it fall to 0 over the other (CycleGAN: 100 epochs and 100)."""
    factor: float = Field(default=0.5, gt=0, lt=1)
    """Factor of one fall (released code: 0.5)."""
    patience: int = Field(default=25, ge=0)
    """Epochs without a better loss before a fall (released code: 25 for the GAN, 20 for the segmentor)."""
    minimum: float = Field(default=1e-6, ge=0)
    """Learning rate below which it never falls (released code: 1e-6 and 2e-5)."""
    watch: Literal["epoch_mean", "last_batch"] = "epoch_mean"
    """Which loss is watched: the mean over the epoch and all ranks, or the epoch's last batch (released code)."""


class GanConfig(Section):
    """Training of the translator."""

    epochs: int = Field(default=101, ge=1)
    """Length of training; an epoch is as many samples as the larger domain has tiles (released code: 101)."""
    iterations: int | None = Field(default=None, ge=1)
    """Length in critic updates instead of epochs, for short runs; null to use ``epochs``."""
    batch_size: int = Field(default=1, ge=1)
    """Pairs per iteration, over all ranks together (released code: 1, on one GPU); a multiple of the number of ranks.
    So the number of ranks changes how fast the result comes, not the result."""
    n_critic: int = Field(default=5, ge=1)
    """Critic updates per generator update, counted on the global step (released code: 5)."""
    generator_lr: float = Field(default=5e-4, gt=0)
    """Adam's learning rate for both generators (released code: 5e-4)."""
    generator_betas: tuple[float, float] = (0.5, 0.999)
    """Adam's betas (released code: 0.5, 0.999)."""
    critic_lr: float = Field(default=5e-4, gt=0)
    """RMSprop's learning rate for both critics (released code: 5e-4)."""
    schedule: PlateauConfig = PlateauConfig()
    order: Literal["permutation", "replacement"] = "permutation"
    """``permutation``: every tile once per epoch of its domain. ``replacement``: independent draws (released code)."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Most pairs that a rank's card holds at once, where its share of ``batch_size`` is too many for it: that share is
    then taken in parts whose gradients are added up; null to take it at once. The result is the same but for rounding.
    """
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    """Floating type of the networks. ``bfloat16`` (``distributed.backend=deepspeed`` only) has losses, optimizers and a
    second copy of the weights in float32; float64 is for comparisons."""
    workers: int = Field(default=1, ge=0)
    """Loader threads per rank; the order does not depend on it."""
    log_every: int = Field(default=20, ge=1)
    """Iterations between logged losses."""
    checkpoint_every: int = Field(default=1000, ge=1)
    """Iterations between checkpoints; the last iteration always has one."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many of the newest checkpoints stay on disk."""
    milestone_every: int | None = Field(default=None, ge=1)
    """Iterations between milestones, checkpoints that are made beside those of ``checkpoint_every`` and never removed
    while this stays as it is; null for none."""


class DistributedConfig(Section):
    """How ranks stay in step."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto``: the GPU of the rank where there is one, else the CPU."""
    backend: Literal["auto", "single", "ddp", "deepspeed"] = "auto"
    """``auto``: DDP when more than one rank was started, else a single process. All give the same result to rounding,
    and continue each other's checkpoints."""
    deepspeed: Path = Path("configs/deepspeed/zero1.json")
    """DeepSpeed's own JSON (``backend=deepspeed`` only), which says the ZeRO stage, 0, 1 or 2; see
    ``configs/deepspeed/README.md``."""
    processes: int = Field(default=1, ge=1)
    """Ranks that ``launch/pipeline.py`` starts on this machine for the GAN; a cluster's launcher decides otherwise."""
    segmentor_processes: int = Field(default=1, ge=1)
    """The same for the segmentor. Its batch norms exchange statistics at every layer: on CPUs one process with all
    threads is faster, so take more only for GPUs."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads per rank; null shares the machine's cores among the local ranks."""
    timeout_s: int = Field(default=1800, ge=1)
    """Seconds after which a rank that hangs ends the run: one that ends no iteration in them writes where it hangs to
    the stage's folder ``hangs``, and a collective that nobody answers gives up."""


class SegmentationConfig(Section):
    """Training of the segmentor (paper, section II-C and equation 8)."""

    architecture: str = "DeepLabV3"
    """Class name in segmentation-models-pytorch, in capitals or not (paper: DeepLabV3; its Fig. 3: DeepLabV3Plus)."""
    encoder: str = "resnet34"
    """Encoder name in segmentation-models-pytorch (released code: resnet34)."""
    encoder_weights: str = "imagenet"
    """``imagenet`` (downloaded by the library), ``none``, or the path of a state dict of the encoder."""
    epochs: int = Field(default=101, ge=1)
    """Passes over the training tiles (released code: 101)."""
    iterations: int | None = Field(default=None, ge=1)
    """Length in updates instead of epochs; null to use ``epochs``."""
    batch_size: int = Field(default=32, ge=2)
    """Crops per update, over all ranks together (released code's scripts: 32), a multiple of the number of ranks; its
    batch norms look at all of them. At least 2: the pooling branch has a batch norm."""
    lr: float = Field(default=2e-4, gt=0)
    """Adam's learning rate (released code: 2e-4)."""
    schedule: PlateauConfig = PlateauConfig(patience=20, minimum=2e-5)
    precision: Literal["float32", "float64"] = "float32"
    """Floating type of the segmentor; float64 is for comparisons."""
    crop: int = Field(default=512, ge=32)
    """Side of a random crop in pixels (released code: 512)."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal, and of a vertical flip (released code: 0.5 each)."""
    quarter_turn: float = Field(default=0.5, ge=0, le=1)
    """Probability of a turn by 90, 180 or 270 degrees (released code: 0.5)."""
    validation: Literal["none", "source", "target"] = "none"
    """On which domain an epoch is scored. ``target`` reads target labels, and the report says so."""
    validation_split: str = "val"
    """Which split of that domain."""
    validate_every: int = Field(default=1, ge=1)
    """Epochs between validations."""
    checkpoint: Literal["last", "best"] = "last"
    """Which epoch is evaluated. ``best`` needs ``validation``; the released code picks by target labels."""
    workers: int = Field(default=1, ge=0)
    """Loader threads."""
    log_every: int = Field(default=20, ge=1)
    """Updates between logged losses."""
    checkpoint_every: int = Field(default=1000, ge=1)
    """Updates between checkpoints; the last update always has one."""
    milestone_every: int | None = Field(default=None, ge=1)
    """Updates between checkpoints that are never removed; as ``gan.milestone_every``."""

    @model_validator(mode="after")
    def _best_needs_validation(self) -> SegmentationConfig:
        if self.checkpoint == "best" and self.validation == "none":
            raise ValueError("segmentation.checkpoint=best needs segmentation.validation=source or =target")
        return self


class TranslationConfig(Section):
    """Writing the translated source tiles as shards."""

    batch_size: int = Field(default=8, ge=1)
    """Tiles per forward pass (released code: 8)."""


class EvaluationConfig(Section):
    """Scoring whole target TOPs."""

    split: str = "test"
    """Split of the target archive that is scored (paper: all but the eight validation areas)."""
    window: int = Field(default=512, ge=SIDE_MULTIPLE)
    """Side of the sliding window in pixels."""
    protocol: Literal["global", "authors_batch_mean"] = "global"
    """``global``: one confusion matrix over all pixels of all TOPs. ``authors_batch_mean`` (released code): scores of
    each batch of windows, averaged; void counts as a miss and an absent class as 100 percent, so it is comparable only
    to the paper's printed tables."""
    overlap: float = Field(default=0.5, ge=0, lt=1)
    """Share of a window that its neighbour covers too; overlapping scores are blended by a smooth weight."""
    batch_size: int = Field(default=8, ge=1)
    """Windows per forward pass."""


class TrackingConfig(Section):
    """MLflow."""

    uri: str | None = None
    """Tracking URI; null for the environment's ``MLFLOW_TRACKING_URI``, else ``sqlite`` in the run's folder."""
    experiment: str = "drdg"
    """MLflow experiment name."""


class RunConfig(Section):
    """What is run and where it is kept."""

    name: str = Field(default="drdg", pattern=r"^[A-Za-z0-9_][A-Za-z0-9_. -]*$")
    """Name of the run and of its folder."""
    root: Path = Path("runs")
    """Folder of all runs."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything random in training: initial weights, sample order, dropout, penalty mixing, augmentation."""
    rows: list[str] = Field(default=["baseline", "drdg"], min_length=1)
    """Rows of the table, by the names in ``drdg/experiments.py``."""

    keep_changed: bool = False
    """Whether a stage whose settings have changed gets a folder of its own beside the earlier one's (as sweeps set it)
    instead of being refused."""

    @field_validator("rows")
    @classmethod
    def _rows_are_different(cls, rows: list[str]) -> list[str]:
        twice = sorted({row for row in rows if rows.count(row) > 1})
        if twice:
            raise ValueError(f"{twice[0]} is named twice; name each row once")
        return rows

    @property
    def directory(self) -> Path:
        """The run's own folder."""
        return self.root / self.name


class Config(Section):
    """The whole configuration; every default is the paper's PotsdamIRRG to Vaihingen."""

    preset: Literal["paper", "authors"] = "paper"
    """``paper``: the text, with its evident slips corrected. ``authors``: what the released code computes."""
    run: RunConfig = RunConfig()
    source: DomainConfig = DomainConfig(archive=PotsdamArchive(), tile=896, stride=896)
    target: DomainConfig = DomainConfig(archive=VaihingenArchive(), tile=512, stride=256)
    synthetic: SyntheticConfig | None = None
    shards: ShardsConfig = ShardsConfig()
    dsm: DsmConfig = DsmConfig()
    generator: GeneratorConfig = GeneratorConfig()
    critic: CriticConfig = CriticConfig()
    loss: LossConfig = LossConfig()
    cyclegan: CycleGanConfig = CycleGanConfig()
    benjdira: BenjdiraConfig = BenjdiraConfig()
    dualgan: DualGanConfig = DualGanConfig()
    output_space: OutputSpaceConfig = OutputSpaceConfig()
    mucss: MucssConfig = MucssConfig()
    oracle: OracleConfig = OracleConfig()
    gan: GanConfig = GanConfig()
    distributed: DistributedConfig = DistributedConfig()
    translation: TranslationConfig = TranslationConfig()
    segmentation: SegmentationConfig = SegmentationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()
    sweep: SweepConfig = SweepConfig()
    row_settings: dict[str, dict[str, Any]] = Field(default={})
    """What differs for one row, by the row's name, section and knob, on top of what ``drdg/experiments.py`` says."""

    @model_validator(mode="after")
    def _backend_has_the_precision(self) -> Config:
        precision, backend = self.gan.precision, self.distributed.backend
        if precision == "bfloat16" and backend != "deepspeed":
            raise ValueError(
                "gan.precision=bfloat16 needs distributed.backend=deepspeed, which keeps float32 weights beside it; "
                "set that, or gan.precision=float32"
            )
        if precision == "float64" and backend == "deepspeed":
            raise ValueError(
                "gan.precision=float64 is more than distributed.backend=deepspeed computes with; take "
                "distributed.backend=auto or gan.precision=float32"
            )
        if self.segmentation.precision == "float64" and backend == "deepspeed":
            raise ValueError(
                "segmentation.precision=float64 is more than distributed.backend=deepspeed computes with; take "
                "distributed.backend=auto or segmentation.precision=float32"
            )
        return self

    @model_validator(mode="after")
    def _batches_are_shared_evenly(self) -> Config:
        shares = (
            ("gan", self.gan.batch_size, "processes", self.distributed.processes),
            ("segmentation", self.segmentation.batch_size, "segmentor_processes", self.distributed.segmentor_processes),
        )
        for section, size, knob, ranks in shares:
            if size % ranks:
                raise ValueError(
                    f"{section}.batch_size={size} cannot be shared by distributed.{knob}={ranks}; "
                    f"take a multiple, such as {section}.batch_size={-(-size // ranks) * ranks}"
                )
        return self
