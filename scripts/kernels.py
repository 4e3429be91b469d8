"""Compiles the CUDA kernels to PTX by NVRTC, and that to machine code by ptxas: see build-kernels, which calls it.

What was compiled is recorded in kernels/compiled.json: for each module a digest of all that goes into it, and of what
came out. A module whose digests are those of the record is not compiled again."""

import argparse
import ctypes
import hashlib
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
KERNELS = ROOT / "kernels"
RECORD = KERNELS / "compiled.json"

# Volta and later run PTX of this architecture.
VIRTUAL = "compute_70"
OPTIONS = [f"--gpu-architecture={VIRTUAL}", "--std=c++17"]

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

# Machine code that the program embeds: A100's and H100's generations. Others compile the PTX.
EMBEDDED = ["sm_80", "sm_90"]

# What must assemble: the oldest generation as well.
REAL = ["sm_70", *EMBEDDED]


def modules():
    """(name, source, what is defined) of each module."""
    for source in sorted(KERNELS.glob("*.cu")):
        for name, defined in VARIANTS.get(source.stem, {source.stem: {}}).items():
            yield name, source, defined


def outputs(name):
    """The files of a module, by form."""
    return {"ptx": KERNELS / "ptx" / f"{name}.ptx"} | {
        real: KERNELS / "cubin" / real / f"{name}.z" for real in EMBEDDED
    }


def digest(*parts):
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "little") + part)
    return whole.hexdigest()


def sources(path, seen):
    """The files that make up a source: itself and what it includes, without those of the host's build."""
    if path not in seen:
        seen.append(path)
        for name in re.findall(r'^\s*#include "([^"]+)"', path.read_text(), re.MULTILINE):
            if not name.startswith("host/"):
                sources(KERNELS / name, seen)
    return seen


def entry(name, source, defined, tools):
    """What the record says of a module that is up to date."""
    settings = json.dumps([tools, OPTIONS, REAL, defined], sort_keys=True).encode()
    made = {form: digest(path.read_bytes()) if path.exists() else None for form, path in outputs(name).items()}
    return {"inputs": digest(settings, *(path.read_bytes() for path in sources(source, []))), **made}


def stale(tools):
    """The modules that are not what the record says, or that it lacks."""
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    return [module for module in modules() if record.get(module[0]) != entry(*module, tools)]


def orphans():
    """Compiled files of modules that are no more."""
    wanted = {path for name, _, _ in modules() for path in outputs(name).values()}
    found = [*KERNELS.glob("ptx/*"), *KERNELS.glob("cubin/*/*")]
    return [path for path in found if path not in wanted]


def library():
    import nvidia.cuda_nvrtc

    folder = pathlib.Path(nvidia.cuda_nvrtc.__path__[0]) / "lib"
    return ctypes.CDLL(str(folder / "libnvrtc.so.12"))


def text(nvrtc, program, what):
    """One of the texts that NVRTC has of a program."""
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, buffer)
    return buffer.value.decode()


def to_ptx(nvrtc, source, defined):
    program = ctypes.c_void_p()
    created = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None
    )
    if created != 0:
        sys.exit(f"error: NVRTC does not begin with {source.name}: code {created}")
    all_options = [*OPTIONS, f"--include-path={KERNELS}"] + [f"-D{name}={value}" for name, value in defined.items()]
    options = (ctypes.c_char_p * len(all_options))(*[option.encode() for option in all_options])
    failed = nvrtc.nvrtcCompileProgram(program, len(all_options), options)
    log = text(nvrtc, program, "ProgramLog").strip()
    if failed or log:
        sys.exit(f"error: {source.relative_to(ROOT)}:\n{log}")
    return text(nvrtc, program, "PTX")


def assemble(name, ptx, real):
    """Machine code; prints registers and spills of each kernel; fails on what does not assemble."""
    import nvidia.cuda_nvcc

    ptxas = pathlib.Path(nvidia.cuda_nvcc.__path__[0]) / "bin" / "ptxas"
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, f"{name}.ptx").write_text(ptx)
        done = subprocess.run(
            [ptxas, "--warning-as-error", "-v", f"-arch={real}", f"{name}.ptx", "-o", "out"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            sys.exit(f"error: {name} does not assemble for {real}:\n{done.stderr}")
        report(real, done.stderr)
        return pathlib.Path(folder, "out").read_bytes()


def report(real, lines):
    kernel = None
    for line in lines.splitlines():
        if "Compiling entry function" in line:
            kernel = line.split("'")[1]
        elif "Used" in line and kernel:
            print(f"{real}  {kernel:<20} {line.split(':', 1)[1].strip()}")


def build(nvrtc, name, source, defined):
    """What a module compiles to, by form: PTX as it is, machine code as it comes out of its file."""
    ptx = to_ptx(nvrtc, source, defined)
    code = {real: assemble(name, ptx, real) for real in REAL}
    return {"ptx": ptx.encode()} | {real: code[real] for real in EMBEDDED}


def kept(form, path):
    """What is committed, in the same terms. Machine code is packed; how well, depends on zlib's release."""
    if not path.exists():
        return None
    return path.read_bytes() if form == "ptx" else zlib.decompress(path.read_bytes())


def write(form, path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    # what is the same already stays as it is packed
    if kept(form, path) != content:
        path.write_bytes(content if form == "ptx" else zlib.compress(content, 9))


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--tools", required=True, help="the compilers and their releases")
    arguments.add_argument("--check", action="store_true", help="fail if a committed file is not what its source compiles to")
    arguments.add_argument("--all", action="store_true", help="compile what has not changed as well")
    arguments.add_argument("--unchanged", action="store_true", help="succeed if nothing has to be compiled; needs no compiler")
    options = arguments.parse_args()
    todo = list(modules()) if options.all else stale(options.tools)
    left_over = orphans()
    if options.unchanged:
        sys.exit(1 if todo or left_over else 0)
    nvrtc = library() if todo else None
    differ = list(left_over)
    for name, source, defined in todo:
        for form, content in build(nvrtc, name, source, defined).items():
            path = outputs(name)[form]
            if not options.check:
                write(form, path, content)
            elif kept(form, path) != content:
                differ.append(path)
    if not options.check:
        for path in left_over:
            path.unlink()
        record = {module[0]: entry(*module, options.tools) for module in modules()}
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    elif differ or stale(options.tools):
        names = ", ".join(str(path.relative_to(ROOT)) for path in differ or [RECORD])
        sys.exit(f"error: not what the sources compile to: {names}; run scripts/build-kernels")


if __name__ == "__main__":
    main()
