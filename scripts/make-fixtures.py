#!/usr/bin/env python3
"""Makes tests/fixtures/hdf5 with h5py and hdf5plugin, the programs that detectors' files come from.

Run it in the repository root. Frames follow one formula, which the tests know:
value(f, r, c) = (f * 31 + r * 7 + c * c) % 5, and 251 + f where (r + c) % 17 == 0.
"""

from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

ROOT = Path("tests/fixtures/hdf5")
FRAMES, ROWS, COLS = 5, 37, 29


def frames(first, count, dtype):
    f, r, c = np.meshgrid(np.arange(first, first + count), np.arange(ROWS), np.arange(COLS), indexing="ij")
    values = (f * 31 + r * 7 + c * c) % 5
    return np.where((r + c) % 17 == 0, 251 + f, values).astype(dtype)


def write(name, dtype, first=0, count=FRAMES, dataset="entry/data/data", libver="earliest", **options):
    with h5py.File(ROOT / name, "w", libver=libver) as file:
        options.setdefault("chunks", (1, ROWS, COLS))
        file.create_dataset(dataset, data=frames(first, count, dtype), **options)


def main():
    ROOT.mkdir(parents=True, exist_ok=True)
    lz4 = hdf5plugin.Bitshuffle(cname="lz4")
    write("bslz4_u8.h5", "u1", count=4, **lz4)
    write("bslz4_u16.h5", "u2", **lz4)
    write("bslz4_u32.h5", "u4", libver=("v110", "v110"), chunks=(2, 16, 29), **lz4)
    write("bszstd_u16.h5", "u2", chunks=(2, ROWS, COLS), **hdf5plugin.Bitshuffle(cname="zstd"))
    write("bitshuffle_u16.h5", "u2", **hdf5plugin.Bitshuffle(cname="none", nelems=64))
    write("lz4_u16.h5", "u2", **hdf5plugin.LZ4(nbytes=512))
    write("blosc_u16.h5", "u2", **hdf5plugin.Blosc(cname="lz4", shuffle=hdf5plugin.Blosc.SHUFFLE))
    write("zstd_i32.h5", "i4", **hdf5plugin.Zstd())
    write("lzf_f32.h5", "f4", compression="lzf", shuffle=True)
    write("gzip_shuffle_fletcher_i16_be.h5", ">i2", compression="gzip", shuffle=True, fletcher32=True)
    write("bslz4_u16_be.h5", ">u2", **lz4)
    write("eiger_data_000001.h5", "u2", count=3, **lz4)
    write("eiger_data_000002.h5", "u2", first=3, count=2, **lz4)
    with h5py.File(ROOT / "eiger_master.h5", "w") as file:
        group = file.create_group("entry/data")
        for k in (1, 2):
            group[f"data_{k:06d}"] = h5py.ExternalLink(f"eiger_data_{k:06d}.h5", "/entry/data/data")
    layout = h5py.VirtualLayout((FRAMES, ROWS, COLS), "u2")
    for k, part in ((1, slice(0, 3)), (2, slice(3, 5))):
        count = part.stop - part.start
        layout[part] = h5py.VirtualSource(f"eiger_data_{k:06d}.h5", "entry/data/data", (count, ROWS, COLS))
    with h5py.File(ROOT / "vds.h5", "w") as file:
        file.create_virtual_dataset("entry/data/data", layout)


main()
