"""Figures of any model: names are words, roles have one order, no mark is cut off."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lfmlib import findings, plots

ROLES = ["down", "gate", "up", "k", "o", "q", "v"]
READ = ["q", "k", "v", "o", "gate", "up", "down"]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def rows(roles: list[str], layers: int = 4) -> pd.DataFrame:
    made = [{"role": role, "depth": at, "std_delta": 1e-3, "kl_bits": 0.1} for at in range(layers) for role in roles]
    return pd.DataFrame(made)


@pytest.mark.parametrize(
    "name", [r"$\frac{x$", "$x$", "Ba$$in", "$8^{\\mathrm h}$", "_orig_mod", "a" * 300, "x\ny", r"a\$b$"]
)
def test_any_name_can_be_drawn(name):
    fig, ax = plots.figure()
    ax.set_title(plots.literal(name))
    plots.ranges(ax, pd.DataFrame({"model": [name], "component": "q", "low": 1.0, "high": 1.1}), 1.2, "Gaussian", "k")
    fig.canvas.draw()
    assert "\n" not in ax.get_title()
    assert len(ax.get_yticklabels()[0].get_text()) <= 34


def test_a_panel_for_each_role_in_the_order_of_reading_and_a_legend_with_every_line():
    fig, axes = plots.figure(7.6, nrows=4, ncols=2, sharex=True)
    plots.by_layer(axes, {"_tower": rows(ROLES), "$text$": rows(ROLES)})
    assert [ax.get_title() for ax in axes.flat][:7] == list(READ)
    assert [text.get_text() for text in axes.flat[-1].get_legend().get_texts()] == [" _tower", r"\$text\$"]
    fig, axes = plots.figure(7.6, nrows=4, ncols=2, sharex=True)
    plots.by_layer(axes, {"pair": rows(["up", "q"])})
    assert [ax.get_title() for ax in axes.flat if ax.axison] == ["q", "up"]
    assert fig.get_figheight() < 4


def test_maps_and_tables_have_roles_in_the_order_of_reading():
    _, ax = plots.figure()
    plots.depth_role_map(ax, rows([*ROLES, "other"]), "kl_bits", 0.02, "kl_bits")
    assert [label.get_text() for label in ax.get_xticklabels()] == [*READ, "other"]
    assert findings.by_role(rows(ROLES))["kl_bits"].median().index.tolist() == READ


def test_rows_stand_layer_by_layer_and_what_has_no_layer_first():
    table = rows([*ROLES, "embed"], layers=2).assign(tower="")
    table.loc[table["role"] == "embed", "depth"] = np.nan
    found = findings.layer_by_layer(table)
    assert found["role"].tolist() == ["embed"] * 2 + READ * 2
    assert found["depth"].tolist()[2:] == [0] * len(READ) + [1] * len(READ)


def test_a_map_of_two_towers_names_every_column_and_prints_no_numbers_over_one_another():
    table = pd.concat([rows(ROLES).assign(tower=tower) for tower in ("encoder", "decoder")])
    fig, ax = plots.figure()
    plots.depth_role_map(ax, table, "kl_bits", 0.02, "kl_bits")
    fig.canvas.draw()
    assert len([label for label in ax.get_xticklabels() if label.get_text()]) == 2 * len(ROLES)
    assert not ax.texts


@pytest.mark.parametrize("top", [0.05, 0.3, 3.0])
def test_no_dot_is_cut_off(top):
    fig, ax = plots.figure(3.8)
    table = rows(ROLES).assign(kl_bits=np.linspace(1e-3, top, 28))
    noise = table.assign(kl_bits=np.linspace(-1e-4, 3e-4, 28))
    plots.strip(ax, table, noise, "kl_bits", {"Laplace": 0.103, "bound": 0.02}, "kl_bits")
    fig.canvas.draw()
    (low, high), pixels = ax.get_ylim(), ax.transData.transform([(0, top), (0, -1e-4)])[:, 1]
    assert low < -1e-4 and high > top
    assert ax.bbox.y1 - pixels[0] > 3 and pixels[1] - ax.bbox.y0 > 3
