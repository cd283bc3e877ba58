"""Generates the stubs under polytok/ and checks the contracts. `python protos/build.py --help` lists what it does.

buf reads an image that protoc builds, not the sources: the module's two dependencies then come from installed
packages (`protovalidate`, `googleapis-common-protos`) and no registry is contacted.
"""

import argparse
import filecmp
import pathlib
import shutil
import subprocess
import sys
import tempfile

from google.protobuf import descriptor_pb2, descriptor_pool

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = ROOT / "protos"
sys.path.insert(0, str(ROOT))

RULES_IMPORT = "from buf.validate import validate_pb2 as buf_dot_validate_dot_validate__pb2"
RULES_REPLACEMENT = "from polytok import _rules as buf_dot_validate_dot_validate__pb2"


def run(*command: str | pathlib.Path, cwd: pathlib.Path = ROOT) -> None:
    """Run a command; exit with its status if it fails."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def tool(name: str) -> pathlib.Path:
    """Return a program of the virtual environment that runs this script."""
    return pathlib.Path(sys.executable).parent / name


def write_dependencies(path: pathlib.Path) -> None:
    """Write the external imports of our files as a FileDescriptorSet."""
    from polytok import _rules

    _rules.DESCRIPTOR  # noqa: B018  registered in the pool on import
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def add(name: str) -> None:
        if name in files:
            return
        descriptor = descriptor_pool.Default().FindFileByName(name)
        for dependency in descriptor.dependencies:
            add(dependency.name)
        files[name] = descriptor_pb2.FileDescriptorProto()
        descriptor.CopyToProto(files[name])

    from google.protobuf import any_pb2, empty_pb2

    for module in (any_pb2, empty_pb2):
        add(module.DESCRIPTOR.name)
    add("buf/validate/validate.proto")
    path.write_bytes(descriptor_pb2.FileDescriptorSet(file=files.values()).SerializeToString())


def protoc(sources: pathlib.Path, work: pathlib.Path, *options: str) -> None:
    """Run protoc over every contract under `sources`."""
    dependencies = work / "dependencies.binpb"
    write_dependencies(dependencies)
    names = sorted(str(path.relative_to(sources)) for path in sources.rglob("polytok/**/*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_in={dependencies}", "-I."]
    run(*command, *options, *names, cwd=sources)


def image(sources: pathlib.Path, work: pathlib.Path, name: str) -> pathlib.Path:
    """Compile the contracts under `sources` to an image that buf reads."""
    path = work / name
    protoc(sources, work, "--include_imports", "--include_source_info", "-o", str(path))
    return path


def generate(target: pathlib.Path, work: pathlib.Path) -> None:
    """Write the stubs under `target`."""
    target.mkdir(parents=True, exist_ok=True)
    protoc(
        SOURCES,
        work,
        f"--plugin=protoc-gen-mypy={tool('protoc-gen-mypy')}",
        f"--plugin=protoc-gen-mypy_grpc={tool('protoc-gen-mypy_grpc')}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=quiet:{target}",
        f"--mypy_grpc_out=quiet:{target}",
    )
    for path in target.rglob("polytok/**/*_pb2.py"):
        path.write_text(path.read_text().replace(RULES_IMPORT, RULES_REPLACEMENT))
    for path in target.rglob("polytok/**/*_pb2_grpc.py"):
        if "Servicer" not in path.read_text():  # protoc also writes one for contracts without a service
            path.unlink()
            path.with_suffix(".pyi").unlink()


def generated(root: pathlib.Path) -> set[pathlib.Path]:
    """Return the generated files under `root`, relative to it."""
    return {path.relative_to(root) for path in root.rglob("polytok/**/*_pb2*") if "__pycache__" not in path.parts}


def install(fresh: pathlib.Path) -> None:
    """Replace our stubs by those under `fresh`, one by one, so that concurrent imports always find all of them."""
    for name in sorted(generated(fresh)):
        if _same(fresh / name, ROOT / name):
            continue
        target = ROOT / name
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = target.with_name(f".{target.name}.new")
        shutil.copyfile(fresh / name, staged)
        staged.replace(target)
        for package in (target.parent, target.parent.parent):
            (package / "__init__.py").touch()  # keep its content: polytok.errors is the error tree
    for name in generated(ROOT) - generated(fresh):
        (ROOT / name).unlink()


def check(work: pathlib.Path) -> None:
    """Exit with 1 if the committed stubs differ from what the contracts generate."""
    fresh = work / "stubs"
    generate(fresh, work)
    names = generated(fresh) | generated(ROOT)
    stale = [n for n in sorted(names) if not _same(fresh / n, ROOT / n)]
    if stale:
        print("These stubs do not match protos/; run `make protos`:", *stale, sep="\n  ")
        sys.exit(1)
    print(f"{len(names)} stubs match protos/.")


def _same(left: pathlib.Path, right: pathlib.Path) -> bool:
    return left.exists() and right.exists() and filecmp.cmp(left, right, shallow=False)


def lint(work: pathlib.Path) -> None:
    """buf lint and buf format; exits with their status."""
    run(tool("buf"), "lint", image(SOURCES, work, "now.binpb"), "--config", SOURCES / "buf.yaml")
    run(tool("buf"), "format", "--diff", "--exit-code", SOURCES)


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def breaking(work: pathlib.Path, against: str | None) -> None:
    """Run buf breaking against a commit: the one named, else main's last, else the one before it.

    A commit that breaks contracts on purpose says so in a trailer, `Breaks-contracts: <why>`.
    """
    head = _git("rev-parse", "HEAD")
    dirty = _git("status", "--porcelain", "protos")
    candidates = [against] if against else ["origin/main", "main", "HEAD^"]
    for candidate in candidates:
        commit = _git("rev-parse", "--verify", "--quiet", f"{candidate}^{{commit}}")
        if commit and (commit != head or dirty or against):
            break
    else:
        print("No earlier commit to compare the contracts with.")
        return
    declared = _git("log", "--format=%(trailers:key=Breaks-contracts,valueonly)", f"{commit}..HEAD")
    if declared and not dirty:
        print(f"The contracts were changed on purpose since {candidate} ({commit[:10]}): {declared}")
        return
    before = work / "before"
    before.mkdir()
    archive = subprocess.run(["git", "archive", commit, "protos"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        print(f"{candidate} has no contracts to compare with.")
        return
    subprocess.run(["tar", "-x", "-C", before], input=archive.stdout, check=True)
    then = image(before / "protos", work, "then.binpb")
    now = image(SOURCES, work, "now.binpb")
    run(tool("buf"), "breaking", now, "--against", then, "--config", SOURCES / "buf.yaml")
    print(f"The contracts break nothing of {candidate} ({commit[:10]}).")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("generate", help="write the stubs under polytok/")
    commands.add_parser("check", help="fail if the committed stubs are stale")
    commands.add_parser("lint", help="buf lint and buf format")
    commands.add_parser("format", help="format the contracts with buf")
    against = commands.add_parser("breaking", help="buf breaking against an earlier commit")
    against.add_argument("--against", help="the commit (default: main's last)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        match arguments.command:
            case "generate":
                generate(work / "stubs", work)
                install(work / "stubs")
            case "check":
                check(work)
            case "lint":
                lint(work)
            case "format":
                run(tool("buf"), "format", "--write", SOURCES)
            case "breaking":
                breaking(work, arguments.against)


if __name__ == "__main__":
    main()
