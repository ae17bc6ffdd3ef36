"""Which combinations are supported, and that every refusal says why."""

import importlib.metadata
import itertools
import subprocess

import pytest

from mnist_mlp.errors import InvalidValueError
from mnist_mlp.recipes import ENGINES, PIPELINES, PRECISIONS
from mnist_mlp.support import check_supported, has_compiler, why_unsupported


@pytest.mark.parametrize(
    ("device", "engine", "precision", "pipeline", "words"),
    [
        ("cpu", "graph", "fp32", "resident", "CUDA graphs, which device 'cpu' does not have"),
        ("mps", "graph", "fp32", "resident", "CUDA graphs"),
        ("mps", "compiled", "fp32", "resident", "prototype"),
        ("cpu", "fused", "fp32", "dataloader", "use pipeline resident"),
        ("cuda:0", "graph", "fp32", "dataloader", "use pipeline resident"),
        ("cpu", "eager", "tf32", "resident", "tensor cores"),
        ("cpu", "fused", "bf16", "resident", "in float32 only, not in bf16"),
        ("mps", "eager", "bf16", "resident", "differs between Apple chips"),
    ],
)
def test_refusal_says_why(device: str, engine: str, precision: str, pipeline: str, words: str) -> None:
    reason = why_unsupported(device=device, engine=engine, precision=precision, pipeline=pipeline)
    assert reason is not None
    assert words in reason
    with pytest.raises(InvalidValueError, match=words):
        check_supported(device=device, engine=engine, precision=precision, pipeline=pipeline)


@pytest.mark.parametrize("device", ["cpu", "cuda:1", "mps"])
def test_eager_fp32_runs_everywhere_from_either_pipeline(device: str) -> None:
    for pipeline in PIPELINES:
        check_supported(device=device, engine="eager", precision="fp32", pipeline=pipeline)


def test_every_engine_and_precision_is_supported_somewhere() -> None:
    possible = [
        (engine, precision)
        for device, engine, precision in itertools.product(("cpu", "cuda:0", "mps"), ENGINES, PRECISIONS)
        if why_unsupported(device=device, engine=engine, precision=precision, pipeline="resident") is None
    ]
    assert {engine for engine, _ in possible} == set(ENGINES)
    assert {precision for _, precision in possible} == set(PRECISIONS)


@pytest.mark.parametrize(
    ("version", "is_refused"), [("2.9.1", True), ("2.13.2+cpu", True), ("2.14.0", False), ("3.0.0a0+git", False)]
)
def test_fused_is_refused_on_mps_with_releases_of_torch_that_compute_wrongly_there(
    monkeypatch: pytest.MonkeyPatch, version: str, *, is_refused: bool
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", {"torch": version}.__getitem__)
    fused = {
        device: why_unsupported(device=device, engine="fused", precision="fp32", pipeline="resident")
        for device in ("cpu", "cuda:0", "mps")
    }
    assert fused["cpu"] is fused["cuda:0"] is None
    assert (fused["mps"] is not None) == is_refused
    if is_refused:
        number = version[: version.rindex(".")]
        with pytest.raises(
            InvalidValueError, match=f"needs torch 2.14 on 'mps', because torch {number} may .*: install"
        ):
            check_supported(device="mps", engine="fused", precision="fp32", pipeline="resident")
    check_supported(device="mps", engine="eager", precision="fp32", pipeline="resident")


def test_compiled_is_refused_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not has_compiler("cpu")
    with pytest.raises(InvalidValueError, match="needs the C\\+\\+ compiler 'no-such-compiler'"):
        check_supported(device="cpu", engine="compiled", precision="fp32", pipeline="resident")


@pytest.mark.parametrize(
    ("found", "status", "has"),
    [("/usr/bin/clang++", 0, True), ("/usr/bin/clang++", 2, False), ("/opt/homebrew/bin/clang++", 2, True)],
    ids=["Apple's", "Apple's stand-in", "another"],
)
def test_on_a_mac_apples_compiler_counts_only_if_the_developer_tools_are_installed(
    monkeypatch: pytest.MonkeyPatch, found: str, status: int, *, has: bool
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("shutil.which", lambda name: found if name == "clang++" else None)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, status))
    assert has_compiler("cpu") == has


@pytest.mark.parametrize(
    ("triton", "compilers", "cc", "has"),
    [(True, {"gcc"}, "", True), (True, {"clang"}, "", True), (True, set(), "icx", True), (True, {"g++"}, "", False),
     (False, {"gcc"}, "", False)],
)  # fmt: skip
def test_compiled_on_cuda_needs_triton_and_a_c_compiler(
    monkeypatch: pytest.MonkeyPatch, compilers: set[str], cc: str, *, triton: bool, has: bool
) -> None:
    monkeypatch.setenv("CC", cc)
    monkeypatch.setattr("shutil.which", lambda name: name if name in compilers else None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object() if triton else None)
    assert has_compiler("cuda:0") == has
    assert "triton and a C compiler" in str(
        why_unsupported(device="cuda:0", engine="compiled", precision="fp32", pipeline="resident", compiler=False)
    )


def test_misspelt_engine_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidValueError, match="did you mean 'fused'"):
        check_supported(device="cpu", engine="fusd", precision="fp32", pipeline="resident")
