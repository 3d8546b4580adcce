"""Rows as values: which there are, what they set, and what a configuration may say of one."""

from __future__ import annotations

import pytest

from drdg.config import Config, load_config
from drdg.config.sections import OBJECTIVES, TRANSLATORS
from drdg.experiments import ROWS, config_of, find_row, merged


def given(**row_settings: object) -> Config:
    return load_config(None).model_copy(update={"row_settings": row_settings})


def test_every_row_is_made_of_methods_that_exist_and_its_settings_are_knobs() -> None:
    for row in ROWS.values():
        assert row.objective in OBJECTIVES
        assert row.translator in (None, "resize", *TRANSLATORS)
        assert not (row.translator and row.shares)
        for name in row.builds_on:
            assert find_row(name).translator is not None
        changed = config_of(row, load_config(None))
        for section, settings in row.settings.items():
            for knob in settings:
                assert getattr(changed, section) != getattr(load_config(None), section), (row.name, knob)


def test_sections_are_merged_to_any_depth_and_nothing_else_is_touched() -> None:
    before = {"gan": {"schedule": {"kind": "plateau", "patience": 25}, "epochs": 1}, "run": {"seed": 3}}
    after = merged(before, {"gan": {"schedule": {"kind": "linear"}}})
    assert after == {"gan": {"schedule": {"kind": "linear", "patience": 25}, "epochs": 1}, "run": {"seed": 3}}
    assert before["gan"]["schedule"] == {"kind": "plateau", "patience": 25}


def test_row_settings_win_over_the_rows_own_and_touch_no_other_row() -> None:
    config = given(cyclegan={"gan": {"generator_lr": 1e-4}})
    assert config_of(find_row("cyclegan"), config).gan.generator_lr == 1e-4
    assert config_of(find_row("cyclegan"), config).gan.critic_lr == 2e-4
    assert config_of(find_row("benjdira"), config).gan.generator_lr == 2e-4
    assert config_of(find_row("drdg"), config).gan.generator_lr == 5e-4


def configs_of_all_rows(config: Config) -> list[Config]:
    return [config_of(row, config) for row in ROWS.values()]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cyclgan": {}}, r"row_settings.cyclgan: is no row; did you mean 'cyclegan'\?"),
        ({"drdg": {"gan": {"epoch": 3}}}, r"row_settings.drdg.gan.epoch: Extra inputs"),
        ({"mucss": {"mucss": {"confidence": 2}}}, r"row_settings.mucss.mucss.confidence: "),
        ({"drdg_osa": {"loss": {"adversarial": 1}}}, r"row_settings.drdg_osa.loss: .* set it for row drdg"),
        ({"baseline": {"gan": {"epochs": 1}}}, r"row_settings.baseline.gan: row baseline trains no networks by it"),
    ],
)
def test_what_no_row_can_take_is_refused_by_its_key(settings: dict[str, object], message: str) -> None:
    config = given(**settings)
    with pytest.raises(ValueError, match=message):
        configs_of_all_rows(config)


def test_released_recipes_of_the_compared_methods() -> None:
    config = load_config(None)
    for name in ("cyclegan", "benjdira"):
        gan = config_of(find_row(name), config).gan
        assert (gan.generator_lr, gan.critic_lr, gan.generator_betas, gan.n_critic) == (2e-4, 2e-4, (0.5, 0.999), 1)
    assert config_of(find_row("cyclegan"), config).gan.schedule.kind == "linear"
    dualgan = config_of(find_row("dualgan"), config).gan
    assert (dualgan.generator_lr, dualgan.critic_lr, dualgan.n_critic) == (5e-5, 5e-5, 5)
    assert config_of(find_row("rdg"), config).loss.adversarial == 5
    assert not config_of(find_row("rdg_adv1"), config).loss.uses_depth
