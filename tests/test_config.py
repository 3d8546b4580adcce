"""Configuration: layers win in order, every mistake is one sentence with the key and the cure."""

from pathlib import Path

import pytest
import yaml

from drdg.config import Config, digest, known_keys, load_config, to_yaml


def test_the_default_is_the_papers_recipe() -> None:
    config = load_config()
    weights = config.loss
    assert (weights.adversarial, weights.cycle, weights.depth_supervised, weights.depth_cycle_consistency) == (
        5,
        10,
        2,
        1,
    )
    assert (config.source.tile, config.target.tile) == (896, 512)
    assert config.gan.n_critic == 5
    assert (config.gan.generator_lr, config.gan.critic_lr) == (5e-4, 5e-4)
    assert config.gan.generator_betas == (0.5, 0.999)
    assert (config.segmentation.architecture, config.segmentation.encoder) == ("DeepLabV3", "resnet34")
    assert config.source.archive.kind == "potsdam"
    assert config.target.archive.kind == "vaihingen"


def test_a_printed_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = load_config(None, ["preset=authors", "run.seed=7", "source.archive.bands=rgb"])
    path = tmp_path / "printed.yaml"
    path.write_text(to_yaml(config))
    assert load_config(path) == config


def test_overrides_win_over_the_file_and_the_file_over_its_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("gan: {n_critic: 2, batch_size: 3, iterations: 9}\n")
    (tmp_path / "own.yaml").write_text("base: base.yaml\ngan: {batch_size: 4, iterations: 8}\n")
    gan = load_config(tmp_path / "own.yaml", ["gan.iterations=7"]).gan
    assert (gan.n_critic, gan.batch_size, gan.iterations) == (2, 4, 7)


def test_a_preset_is_below_files_and_overrides(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("preset: authors\ncritic: {norm_eps: 0.1}\n")
    config = load_config(path)
    assert config.critic.norm_eps == 0.1
    assert config.generator.depth_decoder == "shared"


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("loss.adverserial=1", "loss.adversarial"),
        ("gan.n_critics=1", "gan.n_critic"),
        ("source.archive.bnds=rgb", "source.archive.bands"),
        ("sed=1", "run.seed"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_right_name(override: str, nearest: str) -> None:
    with pytest.raises(ValueError, match="unknown key") as error:
        load_config(None, [override])
    if override != "sed=1":  # too short to be near anything in particular
        assert f"did you mean '{nearest}'" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("source.tile=200", ["source.tile", "128", "256"]),
        ("target.tile=100", ["target.tile", "take 128"]),
        ("target.tile=-5", ["target.tile", "take 128"]),
        ("gan.batch_size=0", ["gan.batch_size"]),
        ("preset=papr", ["preset", "paper", "authors"]),
        ("segmentation.checkpoint=best", ["segmentation.validation"]),
        ("nonsense", ["key.sub=value"]),
        ("source.archive.kind=berlin", ["source.archive", "potsdam"]),
        ("run.name=${nowhere}", ["nowhere"]),
    ],
)
def test_a_wrong_value_is_one_sentence_with_key_and_cure(override: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        load_config(None, [override])
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_quoted_id_is_asked_for_where_yaml_made_a_number(tmp_path: Path) -> None:
    path = tmp_path / "numbers.yaml"
    path.write_text("source: {archive: {kind: described, name: x, root: x, image: '{id}.tif', splits: {val: [1_2]}}}\n")
    with pytest.raises(ValueError, match="quote") as error:
        load_config(path)
    assert "source.archive.splits.val" in str(error.value)


@pytest.mark.parametrize(
    ("text", "word"), [("- 1\n- 2\n", "mapping"), ("a: [1\n", "YAML"), ("base: own.yaml\n", "circle")]
)
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=word) as error:
        load_config(path)
    assert "own.yaml" in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such configuration file"):
        load_config(tmp_path / "none.yaml")


def test_the_digest_ignores_places_and_pace_but_not_what_is_computed() -> None:
    plain = digest(load_config())
    assert digest(load_config(None, ["gan.workers=7", "shards.root=/elsewhere", "gan.log_every=3"])) == plain
    assert digest(load_config(None, ["gan.n_critic=4"])) != plain


def test_the_digest_knows_the_order_of_the_classes() -> None:
    one, other = ({"classes": dict(order)} for order in ([("a", 1), ("b", 2)], [("b", 2), ("a", 1)]))
    assert digest(one) != digest(other)


def test_every_knob_is_documented() -> None:
    def walk(schema: dict, where: str) -> list[str]:
        bare = []
        for name, value in schema.get("properties", {}).items():
            if "description" not in value and "$ref" not in value and name not in ("kind", "archive"):
                bare.append(f"{where}.{name}")
        return bare

    schema = Config.model_json_schema()
    undocumented = [knob for title, section in schema["$defs"].items() for knob in walk(section, title)]
    sections = {"schedule", "berhu"}
    assert [knob for knob in undocumented if knob.rpartition(".")[2] not in sections] == []


CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_is_valid_and_says_only_what_differs(path: Path) -> None:
    load_config(path)
    values = yaml.safe_load(path.read_text())
    assert set(values) - {"base", "preset"} <= {key.partition(".")[0] for key in known_keys()}
