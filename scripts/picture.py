"""Draws a result file: g2 of some bins, the scattering and, where there is one, a two-time map.

    .cache/viewer/bin/python scripts/picture.py RESULT.hdf PICTURE.png

Made docs/result.png. Needs h5py and matplotlib, which the viewer's environment of scripts/check has.
"""

import sys

import h5py
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm


def draw_g2(axes, file):
    config = file["xpcs/multitau/config"]
    unit = float(file["entry/instrument/detector_1/frame_time"][()]) * config["stride_frame"][()] * config["avg_frame"][()]
    delay = file["xpcs/multitau/delay_list"][()].ravel() * unit
    g2, err = file["xpcs/multitau/normalized_g2"][()], file["xpcs/multitau/normalized_g2_err"][()]
    q = file["xpcs/qmap/dynamic_v_list_dim0"][()]
    phis = int(file["xpcs/qmap/dynamic_num_pts"][()][1])
    index = file["xpcs/qmap/dynamic_index_mapping"][()]
    shown = np.unique(np.linspace(0, g2.shape[1] - 1, 6).astype(int))
    for place, column in enumerate(shown):
        colour = plt.cm.viridis(0.9 * place / max(1, len(shown) - 1))
        label = f"{q[index[column] // phis]:.4f}"
        axes.errorbar(delay, g2[:, column], err[:, column], fmt="o", ms=3, lw=0.8, color=colour, label=label)
    axes.set(xscale="log", xlabel="delay (s)", ylabel="$g_2$")
    axes.legend(title="q (Å$^{-1}$)", fontsize=7, title_fontsize=7, frameon=False)


def draw_scattering(figure, axes, file):
    image = file["xpcs/temporal_mean/scattering_2d"][()].squeeze()
    seen = np.where(file["xpcs/qmap/mask"][()].astype(bool) & (image > 0), image, np.nan)
    shown = axes.imshow(seen, norm=LogNorm(*np.nanpercentile(seen, [2, 99.8])), cmap="magma", interpolation="nearest")
    figure.colorbar(shown, ax=axes, label="counts per frame", shrink=0.8)
    axes.set(xlabel="column", ylabel="row")


def draw_two_time(figure, axes, file):
    maps = file["xpcs/twotime/correlation_map"]
    name = sorted(maps)[0]
    c2 = maps[name][()]
    c2 = c2 + np.triu(c2, 1).T
    np.fill_diagonal(c2, np.nan)
    unit = float(file["entry/instrument/detector_1/frame_time"][()])
    extent = [0, c2.shape[0] * unit] * 2
    low, high = np.nanpercentile(c2, [1, 99.5])
    shown = axes.imshow(c2, origin="lower", extent=extent, vmin=low, vmax=high, cmap="viridis", interpolation="nearest")
    figure.colorbar(shown, ax=axes, label=f"C(t1, t2), bin {int(name[3:])}", shrink=0.8)
    axes.set(xlabel="t1 (s)", ylabel="t2 (s)")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with h5py.File(sys.argv[1]) as file:
        panels = 3 if "xpcs/twotime/correlation_map" in file else 2
        figure, axes = plt.subplots(1, panels, figsize=(4.4 * panels, 3.4), constrained_layout=True)
        draw_g2(axes[0], file)
        draw_scattering(figure, axes[1], file)
        if panels == 3:
            draw_two_time(figure, axes[2], file)
        figure.savefig(sys.argv[2], dpi=110)


main()
