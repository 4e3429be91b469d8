#!/usr/bin/env python3
"""Open result files with xpcs-viewer and use everything that its tabs use.

usage: check-result.py RESULT.hdf [...]        (needs: pip install xpcs-viewer==1.2.2 hdf5plugin)

One line a file; exit status 1 when any file or accessor fails. Per-pixel G2 and stability data are checked
where the file has them.
"""
import sys
import traceback

import h5py
import numpy as np
from pyxpcsviewer.core.file_io.qmap_utils import QMapManager
from pyxpcsviewer.core.xpcs_file import XpcsFile

FIT_BOUNDS = [[0, 1e-6, 0.1, 0.9], [3, 1e2, 3, 1.1]]


def check_scattering(result):
    assert result.saxs_2d.shape == result.mask.shape
    assert result.saxs_2d_log.shape == result.mask.shape
    assert np.isfinite(result.saxs_1d["Iq"]).any()
    assert np.isfinite(result.Iqp).any()
    assert result.Int_t.shape[0] == 2 and np.array_equal(result.Int_t[0], np.arange(result.Int_t.shape[1]))
    assert np.isfinite(result.Int_t_fft).all()
    info = result.get_hdf_info()
    assert "/entry/instrument" in info
    for analysis in result.atype:
        config = info[f"/xpcs/{analysis.lower()}/config"]
        assert config["analysis_type"] == analysis.lower()
        assert config["stride_frame"] >= 1 and config["avg_frame"] >= 1


def check_multitau(result):
    q, delays, g2, err, labels = result.get_g2_data()
    assert g2.shape == err.shape == (len(delays), len(labels)), (g2.shape, err.shape, len(delays), len(labels))
    assert len(q) and np.isfinite(g2).all() and (np.diff(delays) > 0).all() and delays[0] > 0
    result.fit_g2(q_range=None, t_range=None, bounds=FIT_BOUNDS, fit_flag=[True] * 4, fit_func="single")
    assert result.fit_summary is not None
    return f"g2 {g2.shape}"


def check_stability(result):
    _, delays, g2, err, bins, frames = result.get_g2_stability_data()
    assert g2.shape == err.shape == (len(frames), len(delays), len(bins))
    assert [int(frame) for frame in frames] == sorted({int(frame) for frame in frames})
    for part in g2:
        known = np.isfinite(part).all(axis=1)
        assert known[0] and not (np.diff(known.astype(int)) > 0).any(), "numbers after a gap"
    half = (delays[0], delays[len(delays) // 2])
    assert result.get_g2_stability_data(trange=half)[2].shape[1] < len(delays)
    return f"parts at frames {[int(frame) for frame in frames]}"


def check_pixels(result):
    images = [result.get_G2_data(name, 0) for name in ("G2", "IP", "IF", "g2_per_pixel")]
    assert all(image.shape == result.mask.shape for image in images)
    assert all((image[~result.mask] == 0).all() for image in images)
    return f"G2 {result.G2.shape}"


def check_twotime(result):
    labels = result.get_twotime_qbin_labels()
    bins = [int(label.split(",")[0].removeprefix("qbin=")) for label in labels]
    with h5py.File(result.fname) as file:
        names = list(file["/xpcs/twotime/correlation_map"])
    assert names == [f"c2_{dq:05d}" for dq in bins], (names, bins)
    for position in range(len(labels)):
        c2 = result.get_twotime_c2(selection=position)
        matrix = np.asarray(c2["c2_mat"])
        assert matrix.shape == (result.Int_t.shape[1],) * 2
        assert np.isfinite(matrix).all() and np.array_equal(matrix, matrix.T)
        assert len(c2["g2_full"]) == matrix.shape[0] and c2["g2_partial"].shape == (5, matrix.shape[0] // 5)
    assert len(list(result.get_twotime_stream()[1])) == len(labels)
    result.get_twotime_maps()
    return f"two-time {names}"


def check(path):
    result = XpcsFile(path, qmap_manager=QMapManager())
    check_scattering(result)
    seen = []
    if "Multitau" in result.atype:
        seen.append(check_multitau(result))
        with h5py.File(path) as file:
            multitau = set(file["/xpcs/multitau"])
        if "normalized_g2_partial" in multitau:
            seen.append(check_stability(result))
        if "unnormalized_G2" in multitau:
            seen.append(check_pixels(result))
    if "Twotime" in result.atype:
        seen.append(check_twotime(result))
    return f"{'+'.join(result.atype)}: {', '.join(seen)}"


def main(paths):
    if not paths:
        sys.exit(__doc__)
    failed = 0
    for path in paths:
        try:
            print(f"ok {path}: {check(path)}")
        except Exception:
            failed += 1
            traceback.print_exc()
            print(f"FAILED {path}")
    sys.exit(1 if failed else 0)


main(sys.argv[1:])
