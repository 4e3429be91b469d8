"""Fits g2 of a result file and prints contrast and relaxation time of each dynamic bin; draws a picture on request.

    report.py RESULT.hdf [--picture FILE.png] [--tau FRAMES --contrast BETA [--exponent N]]

With --tau and --contrast, those of `speckled simulate`, the truth stands beside what was found.
Called by scripts/demo, which prepares Python. Needs h5py and numpy, and matplotlib for the picture.
"""

import argparse

import h5py
import numpy as np


class MultiTau:
    """What the report needs of a result file; delays in frames."""

    def __init__(self, file):
        group = file["xpcs/multitau"]
        delay = group["delay_list"][()].ravel().astype(float)
        # The last delays have few pairs, and a single pair makes every pixel's g2 exactly 1, with an error of 0.
        kept = delay <= file["xpcs/spatial_mean/intensity_vs_time"].shape[1] / 4
        self.delay = delay[kept]
        self.g2 = group["normalized_g2"][()][kept].astype(float)
        self.err = group["normalized_g2_err"][()][kept].astype(float)
        unit = group["config/stride_frame"][()] * group["config/avg_frame"][()]
        self.seconds = float(file["entry/instrument/detector_1/frame_time"][()]) * float(unit)
        rings = int(file["xpcs/qmap/dynamic_num_pts"][()][1])
        self.q = file["xpcs/qmap/dynamic_v_list_dim0"][()][file["xpcs/qmap/dynamic_index_mapping"][()] // rings]


def linear(delay, g2, weight, tau):
    """Baseline and contrast that fit best for a given relaxation time, and their weighted squared residual."""
    design = np.stack([np.ones_like(delay), np.exp(-2 * delay / tau)], axis=1)
    root = np.sqrt(weight)
    found, *_ = np.linalg.lstsq(design * root[:, None], g2 * root, rcond=None)
    return found, float((weight * (design @ found - g2) ** 2).sum())


def fit(delay, g2, err):
    """(contrast, tau, error of tau) of g2 = baseline + contrast * exp(-2 t / tau)."""
    weight = 1 / np.maximum(err, err[err > 0].min()) ** 2
    grid = np.geomspace(delay[0] / 2, delay[-1], 60)
    for _ in range(4):
        residuals = np.array([linear(delay, g2, weight, tau)[1] for tau in grid])
        best = int(residuals.argmin())
        grid = np.geomspace(grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)], 41)
    tau = grid[len(grid) // 2]
    (_, contrast), least = linear(delay, g2, weight, tau)
    step = 1.02
    curvature = sum(linear(delay, g2, weight, tau * s)[1] - least for s in (step, 1 / step)) / np.log(step) ** 2
    scale = max(1.0, least / max(1, len(delay) - 3))
    return contrast, tau, tau * np.sqrt(2 * scale / max(curvature, 1e-12))


def table(data, truth):
    """Lines of the table, relaxation times in frames."""
    yield f"{'bin':>4}{'q (1/Å)':>10}{'contrast':>11}{'tau (frames)':>20}" + (f"{'true tau':>12}{'pull':>7}" if truth else "")
    for column, q in enumerate(data.q):
        contrast, tau, error = fit(data.delay, data.g2[:, column], data.err[:, column])
        line = f"{column + 1:>4}{q:>10.5f}{contrast:>11.4f}{tau:>12.2f} ± {error:<5.2f}"
        if truth:
            true = truth.tau * (q / data.q[0]) ** -truth.exponent
            line += f"{true:>12.2f}{(tau - true) / error:>7.1f}"
        yield line


def draw(path, file, data):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = 3 if "xpcs/twotime/correlation_map" in file else 2
    figure, axes = plt.subplots(1, panels, figsize=(4.4 * panels, 3.4), constrained_layout=True)
    draw_g2(plt, axes[0], data)
    draw_scattering(figure, axes[1], file)
    if panels == 3:
        draw_two_time(figure, axes[2], file)
    figure.savefig(path, dpi=110)


def draw_g2(plt, axes, data):
    shown = np.unique(np.linspace(0, len(data.q) - 1, 6).astype(int))
    for place, column in enumerate(shown):
        g2, err = data.g2[:, column], data.err[:, column]
        colour = plt.cm.viridis(0.9 * place / max(1, len(shown) - 1))
        axes.errorbar(data.delay * data.seconds, g2, err, fmt="o", ms=3, lw=0.8, color=colour, label=f"{data.q[column]:.4f}")
        tau = fit(data.delay, g2, err)[1]
        base, contrast = linear(data.delay, g2, 1 / err**2, tau)[0]
        fine = np.geomspace(data.delay[0], data.delay[-1], 200)
        axes.plot(fine * data.seconds, base + contrast * np.exp(-2 * fine / tau), lw=1, color=colour)
    axes.set(xscale="log", xlabel="delay (s)", ylabel="$g_2$")
    axes.legend(title="q (Å$^{-1}$)", fontsize=7, title_fontsize=7, frameon=False)


def draw_scattering(figure, axes, file):
    image = file["xpcs/temporal_mean/scattering_2d"][()].squeeze()
    seen = np.where(file["xpcs/qmap/mask"][()].astype(bool), image, np.nan)
    low, high = np.nanpercentile(seen, [1, 99])
    shown = axes.imshow(seen, vmin=low, vmax=high, cmap="magma", interpolation="nearest")
    figure.colorbar(shown, ax=axes, label="counts per frame", shrink=0.7)
    axes.set(xlabel="column", ylabel="row")


def draw_two_time(figure, axes, file):
    maps = file["xpcs/twotime/correlation_map"]
    name = sorted(maps)[0]
    c2 = maps[name][()]
    frames = c2.shape[0]
    c2 = c2 + np.triu(c2, 1).T
    np.fill_diagonal(c2, np.nan)
    # Averaged to some 250 x 250 cells: the eye, and the file, gain nothing from single noisy entries.
    cell = max(1, frames // 250)
    cells = frames // cell
    c2 = np.nanmean(c2[: cells * cell, : cells * cell].reshape(cells, cell, cells, cell), axis=(1, 3))
    low, high = np.nanpercentile(c2, [5, 99.8])
    shown = axes.imshow(c2, origin="lower", extent=[0, frames] * 2, vmin=low, vmax=high, cmap="viridis")
    figure.colorbar(shown, ax=axes, label=f"C(t1, t2), bin {int(name[3:])}", shrink=0.8)
    axes.set(xlabel="t1 (frames)", ylabel="t2 (frames)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result")
    parser.add_argument("--picture")
    parser.add_argument("--tau", type=float)
    parser.add_argument("--contrast", type=float)
    parser.add_argument("--exponent", type=float, default=2.0)
    options = parser.parse_args()
    with h5py.File(options.result) as file:
        data = MultiTau(file)
        print("\n".join(table(data, options if options.tau else None)))
        if options.contrast:
            print(f"the true contrast is {options.contrast}; pull = (found - true) / error")
        if options.picture:
            draw(options.picture, file, data)


main()
