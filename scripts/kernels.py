"""Compiles the CUDA kernels to PTX by NVRTC: see build-kernels, which calls it."""

import argparse
import ctypes
import pathlib
import subprocess
import sys
import tempfile

import nvidia.cuda_nvcc
import nvidia.cuda_nvrtc

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "kernels").glob("*.cu"))
OUT = ROOT / "kernels" / "ptx"

# Volta and later run PTX of this architecture.
VIRTUAL = "compute_70"
OPTIONS = [f"--gpu-architecture={VIRTUAL}", "--std=c++17", f"--include-path={ROOT / 'kernels'}"]

# What a source is compiled for, and the names of what comes of it; a source that is not here, once and by its own name.
COUNTS = {"u2": "u2", "u8": "u8", "u16": "u16", "u32": "u32", "i16": "short", "i32": "int", "f32": "float"}
REALS = {"f32": "float", "f64": "double"}
VARIANTS = {
    "dense_frames": {
        f"dense_{count}_{real}": {"NAME": f"dense_{count}_{real}", "COUNT": COUNTS[count], "REAL": REALS[real]}
        for count in COUNTS
        for real in REALS
    }
}

# V100, A100, H100.
REAL = ["sm_70", "sm_80", "sm_90"]


def library():
    folder = pathlib.Path(nvidia.cuda_nvrtc.__path__[0]) / "lib"
    return ctypes.CDLL(str(folder / "libnvrtc.so.12"))


def text(nvrtc, program, what):
    """One of the texts that NVRTC has of a program."""
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, buffer)
    return buffer.value.decode()


def compile(nvrtc, source, defined):
    program = ctypes.c_void_p()
    created = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None
    )
    if created != 0:
        sys.exit(f"error: NVRTC does not begin with {source.name}: code {created}")
    all_options = OPTIONS + [f"-D{name}={value}" for name, value in defined.items()]
    options = (ctypes.c_char_p * len(all_options))(*[option.encode() for option in all_options])
    failed = nvrtc.nvrtcCompileProgram(program, len(all_options), options)
    log = text(nvrtc, program, "ProgramLog").strip()
    if failed or log:
        sys.exit(f"error: {source.relative_to(ROOT)}:\n{log}")
    return text(nvrtc, program, "PTX")


def assemble(name, ptx):
    """Registers and spills of each kernel for each real architecture; fails on what does not assemble."""
    ptxas = pathlib.Path(nvidia.cuda_nvcc.__path__[0]) / "bin" / "ptxas"
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / f"{name}.ptx"
        path.write_text(ptx)
        for real in REAL:
            done = subprocess.run(
                [ptxas, "--warning-as-error", "-v", f"-arch={real}", path, "-o", pathlib.Path(folder) / "out"],
                capture_output=True,
                text=True,
            )
            if done.returncode != 0:
                sys.exit(f"error: {name} does not assemble for {real}:\n{done.stderr}")
            report(real, done.stderr)


def report(real, lines):
    kernel = None
    for line in lines.splitlines():
        if "Compiling entry function" in line:
            kernel = line.split("'")[1]
        elif "Used" in line and kernel:
            print(f"{real}  {kernel:<20} {line.split(':', 1)[1].strip()}")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--check", action="store_true")
    check = arguments.parse_args().check
    nvrtc = library()
    stale, made = [], set()
    for source in SOURCES:
        for name, defined in VARIANTS.get(source.stem, {source.stem: {}}).items():
            ptx = compile(nvrtc, source, defined)
            path = OUT / f"{name}.ptx"
            made.add(path)
            if not check:
                OUT.mkdir(exist_ok=True)
                path.write_text(ptx)
            elif not path.exists() or path.read_text() != ptx:
                stale.append(path.relative_to(ROOT))
            assemble(name, ptx)
    stale += [path.relative_to(ROOT) for path in OUT.glob("*.ptx") if path not in made]
    if stale:
        sys.exit(f"error: not what the sources compile to: {', '.join(map(str, stale))}; run scripts/build-kernels")


if __name__ == "__main__":
    main()
