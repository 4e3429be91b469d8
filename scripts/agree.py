"""Compares two results of the same raw file by speckled, number by number: the CPU's and a GPU's, for gpu-check.

Prints one line with the largest relative difference of all numbers; fails where one is over the limit, where something
is a number in one result only, or where a dataset is missing. Needs h5py and numpy, nothing else."""

import argparse
import sys
from pathlib import Path

import h5py
import numpy as np

# What says who computed it, when, and with what: different on purpose.
APART = ("/xpcs/provenance", "/xpcs/multitau/config", "/xpcs/twotime/config")


def numbers(file: h5py.File) -> dict[str, np.ndarray]:
    """All numeric datasets below /xpcs by path."""
    found = {}

    def visit(_: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and not item.name.startswith(APART) and item.dtype.kind in "fiu":
            found[item.name] = item[()].astype(np.float64)

    file["/xpcs"].visititems(visit)
    return found


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference, relative to the larger value; infinite where only one is a number."""
    if one.shape != other.shape or not np.array_equal(np.isfinite(one), np.isfinite(other)):
        return np.inf
    finite = np.isfinite(one)
    one, other = one[finite], other[finite]
    scale = np.maximum(np.abs(one), np.abs(other))
    apart = np.abs(one - other)
    return float(np.max(np.divide(apart, scale, out=np.zeros_like(apart), where=scale > 0), initial=0.0))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("one", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--limit", type=float, default=1e-6)
    options = parser.parse_args()
    with h5py.File(options.one) as one, h5py.File(options.other) as other:
        first, second = numbers(one), numbers(other)
    if not first or first.keys() != second.keys():
        sys.exit(f"different datasets: {sorted(first.keys() ^ second.keys()) or 'none in both'}")
    worst = max(first, key=lambda name: difference(first[name], second[name]))
    largest = difference(first[worst], second[worst])
    count = sum(values.size for values in first.values())
    where = f"{largest:.1e} ({worst})" if largest > 0 else "0"
    print(f"largest difference {where} of {count} numbers in {len(first)} datasets")
    if not largest <= options.limit:
        sys.exit(f"more than {options.limit:g}")


main()
