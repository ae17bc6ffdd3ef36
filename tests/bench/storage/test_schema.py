"""The published JSON Schema, the golden file, and how both are made.

After a deliberate change of the format: ``PYTHONPATH=.:tests python tests/bench/storage/test_schema.py`` writes the
schema. A golden file is never written again; a new schema version gets a new one.
"""

import dataclasses
import enum
import json
import types
import typing
from typing import Any, Final

import pytest
from bench_builders import (
    make_conditions,
    make_configuration,
    make_contention,
    make_division,
    make_energy,
    make_epoch,
    make_failure,
    make_fingerprint,
    make_footer,
    make_header,
    make_machine,
    make_measurement,
    make_plan,
    make_record,
    make_settings,
    make_software,
)
from checkout import GOLDEN, ROOT

from bench import coding
from bench.records import (
    SCHEMA_VERSION,
    Accelerator,
    Failure,
    FailureKind,
    Fingerprint,
    Footer,
    Header,
    Measurement,
    Peak,
    TrialRecord,
    TrialWarning,
)
from bench.storage import runfile
from bench.storage.store import read_run

jsonschema = pytest.importorskip("jsonschema")

PUBLISHED: Final = ROOT / "docs" / "results-format.schema.json"
GOLDEN_RUNS: Final = {version: GOLDEN / f"run-schema-{version}.jsonl" for version in range(1, SCHEMA_VERSION + 1)}
ENERGY_VERSION: Final = 3
DIVISION_VERSION: Final = 4
VARIABLES_AND_BATTERY_VERSION: Final = 5
KINDS: Final = {"header": Header, "fingerprint": Fingerprint, "trial": TrialRecord, "footer": Footer}

Schema = dict[str, Any]


def expected_schema() -> Schema:
    """Derive the schema from the types in bench.records, independently of how bench.coding checks them."""
    definitions: dict[str, Schema] = {}
    lines = [line_schema(kind, schema_of(type_, definitions)) for kind, type_ in KINDS.items()]
    definitions["Header"]["properties"]["schema_version"] = {"enum": list(GOLDEN_RUNS)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"One line of a stored run, up to schema version {SCHEMA_VERSION}",
        "description": "A stored run is a JSON-lines file: a header, then trials, then a footer; a resumed run goes on "
        "with trials and another footer. A fingerprint stands before the first trial that ran there. "
        "Seconds, bytes and counts are SI base units; null is what was not measured.",
        "oneOf": lines,
        "$defs": dict(sorted(definitions.items())),
    }


def line_schema(kind: str, reference: Schema) -> Schema:
    return {"type": "object", "properties": {kind: reference}, "required": [kind], "additionalProperties": False}


def schema_of(hint: Any, definitions: dict[str, Schema]) -> Schema:  # noqa: ANN401 - a type hint has no narrower type
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not types.NoneType]
        schemas = [schema_of(member, definitions) for member in members]
        if len(members) > 1:
            for member in members:
                add_tag(definitions[member.__name__], member.__name__)
        nothing: list[Schema] = [{"type": "null"}] if types.NoneType in typing.get_args(hint) else []
        return {"oneOf": schemas + nothing}
    if typing.get_origin(hint) is tuple:
        return {"type": "array", "items": schema_of(typing.get_args(hint)[0], definitions)}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if hint.__name__ not in definitions:
            definitions[hint.__name__] = object_schema(hint, definitions)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    if issubclass(hint, enum.Enum):
        return {"enum": [member.value for member in hint]}
    integer = {"type": "integer", "minimum": -coding.MAX_INTEGER, "maximum": coding.MAX_INTEGER}
    scalars: dict[Any, Schema] = {
        str: {"type": "string"},
        bool: {"type": "boolean"},
        float: {"type": "number"},
        int: integer,
    }
    return scalars[hint]


def object_schema(kind: type, definitions: dict[str, Schema]) -> Schema:
    hints = typing.get_type_hints(kind)
    return {
        "type": "object",
        "properties": {field.name: schema_of(hints[field.name], definitions) for field in dataclasses.fields(kind)},
        "required": [field.name for field in dataclasses.fields(kind) if "later" not in field.metadata],
        "additionalProperties": False,
    }


def add_tag(definition: Schema, name: str) -> None:
    definition["properties"] = {"type": {"const": name}, **definition["properties"]}
    definition["required"] = ["type", *definition["required"]]


def text_of(schema: Schema) -> str:
    return json.dumps(schema, indent=2) + "\n"


@pytest.fixture(scope="module")
def validator() -> Any:  # noqa: ANN401 - jsonschema ships no types
    return jsonschema.Draft202012Validator(json.loads(PUBLISHED.read_text()))


def golden_lines(version: int) -> list[Any]:
    return [json.loads(line) for line in GOLDEN_RUNS[version].read_bytes().splitlines()]


versions = pytest.mark.parametrize("version", GOLDEN_RUNS)


def objects_in(value: object) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value, *(inner for member in value.values() for inner in objects_in(member))]
    return [inner for item in value for inner in objects_in(item)] if isinstance(value, list) else []


def test_the_published_schema_is_that_of_the_records() -> None:
    assert PUBLISHED.read_text() == text_of(expected_schema())


def test_the_page_of_the_format_tells_of_every_line_and_version() -> None:
    page = (PUBLISHED.parent / "results-format.md").read_text()
    assert f"`schema_version` is {SCHEMA_VERSION}." in page
    assert [kind for kind in KINDS if f"\n| `{kind}` |" not in page] == []
    assert [version for version in GOLDEN_RUNS if f"\n| {version} |" not in page] == []


def test_the_published_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(PUBLISHED.read_text()))


@versions
def test_every_line_of_the_golden_file_is_valid(validator: Any, version: int) -> None:  # noqa: ANN401 - see there
    for line in golden_lines(version):
        validator.validate(line)


@versions
def test_an_object_with_one_member_more_or_less_is_invalid(validator: Any, version: int) -> None:  # noqa: ANN401 - see there
    for number in range(len(golden_lines(version))):
        for index in range(len(objects_in(golden_lines(version)[number]))):
            line = golden_lines(version)[number]
            objects_in(line)[index]["unknown"] = 1
            assert not validator.is_valid(line)
            line = golden_lines(version)[number]
            required = objects_in(line)[index]
            del required[next(iter(required))]
            assert not validator.is_valid(line)


def golden_run() -> list[runfile.Item]:
    """Build what the golden file holds: an interrupted run that was resumed, with all that a record can hold.

    It is part of a larger plan, and its last trials ran on another machine.
    """
    cpu = make_configuration(epochs=2)
    cuda = make_configuration(
        device="cuda",
        model="784-512-256-10",
        layers=(784, 512, 256, 10),
        epochs=2,
        batch_size=256,
        schedule="one_cycle",
    )
    machine = make_machine(accelerators=(Accelerator(device="cuda", name="Fictional GPU F1", memory_bytes=24 * 2**30),))
    on_cpu = make_measurement(
        epochs=(
            make_epoch(
                train_seconds=2.1875, train_loss=0.3412, train_correct=54_171, test_loss=0.1701, test_correct=9_493
            ),
            make_epoch(
                train_seconds=2.0625, train_loss=0.1523, train_correct=57_312, test_loss=0.1089, test_correct=9_677
            ),
        ),
        energy_reason="RAPL: energy_uj may not be read, often only by root",
        on_battery=False,
    )
    unseen = make_contention(
        other_cpu_seconds=None,
        steal_seconds=None,
        involuntary_switches=None,
        pressure_stall_seconds=0.03125,
        throttled_seconds=0.0,
        load_average=0.75,
    )
    blind = make_conditions(max_clock_hertz=None, clock_reasons=None, other_processes=None)
    on_cuda = make_measurement(
        epochs=(
            make_epoch(
                train_seconds=0.40625,
                test_loss=0.1012,
                test_correct=9_702,
                contention=unseen,
                device_conditions=make_conditions(clock_reasons=("sw_power_cap", "hw_slowdown"), other_processes=2),
            ),
            make_epoch(
                train_seconds=0.3984375,
                test_loss=0.0723,
                test_correct=9_781,
                contention=unseen,
                device_conditions=blind,
            ),
        ),
        settings=make_settings(tf32_matmul=True),
        parameters=535_818,
        forward_flops_per_sample=1_070_080,
        training_flops_per_sample=2_407_424,
        host_peak=None,
        host_baseline_bytes=None,
        device_allocated_peak=Peak(bytes=214_958_080, method="torch.cuda.max_memory_allocated"),
        device_reserved_peak=Peak(bytes=239_075_328, method="torch.cuda.max_memory_reserved"),
        energy=make_energy(),
        on_battery=True,
    )
    failed = make_failure(FailureKind.OUT_OF_MEMORY, "CUDA out of memory: 2 GiB wanted, \u00bd GiB free")
    return [
        make_header(plan=make_plan([cpu, cuda], repeats=2), machine=machine, division=make_division((1, 1), of=3)),
        make_record(cpu, 0, outcome=on_cpu, warnings=(TrialWarning.SLOW_FIRST_EPOCH,)),
        make_record(cuda, 0, outcome=failed),
        make_footer(complete=False, reason="interrupted", measured=1, failed=1, missing=2, wall_seconds=21.5),
        make_record(cpu, 1, outcome=on_cpu, warnings=(TrialWarning.STALL, TrialWarning.CONTAMINATION)),
        make_fingerprint(software=make_software(driver="590.2", variables="CUDA_LAUNCH_BLOCKING=1")),
        make_record(
            cuda,
            1,
            outcome=on_cuda,
            warnings=(TrialWarning.THROTTLED, TrialWarning.DEVICE_SHARED, TrialWarning.ON_BATTERY),
            fingerprint=1,
        ),
        make_footer(measured=3, failed=1, wall_seconds=19.25),
    ]


@versions
def test_the_golden_file_reads_as_the_run_it_was(version: int) -> None:
    run = read_run(GOLDEN_RUNS[version])
    assert run.warnings == ()
    assert run.header.schema_version == version
    assert run.header.machine.id == "x86_64-4c-" + run.header.machine.id[-8:]
    assert [configuration.device for configuration in run.header.plan.configurations] == ["cpu", "cuda"]
    schedules = [configuration.schedule for configuration in run.header.plan.configurations]
    assert schedules == ["constant", "constant" if version == 1 else "one_cycle"]
    assert [(r.trial.configuration.device, r.trial.repeat, r.trial.seed) for r in run.records] == [
        ("cpu", 0, 42),
        ("cuda", 0, 42),
        ("cpu", 1, 43),
        ("cuda", 1, 43),
    ]
    first, failed, warned, last = run.records
    assert isinstance(first.outcome, Measurement)
    assert first.outcome.epoch_seconds == 2.125
    assert first.outcome.test_accuracy == 0.9677
    assert first.outcome.device_allocated_peak is None
    assert failed.outcome == Failure(
        kind=FailureKind.OUT_OF_MEMORY, message="CUDA out of memory: 2 GiB wanted, \u00bd GiB free"
    )
    assert warned.warnings == (TrialWarning.STALL, TrialWarning.CONTAMINATION)
    assert isinstance(last.outcome, Measurement)
    assert last.outcome.device_reserved_peak == Peak(bytes=239_075_328, method="torch.cuda.max_memory_reserved")
    assert last.outcome.epochs[0].contention.steal_seconds is None
    knows_energy = version >= ENERGY_VERSION
    assert last.outcome.energy == (make_energy() if knows_energy else None)
    assert bool(first.outcome.energy_reason) == knows_energy
    conditions = last.outcome.epochs[0].device_conditions
    assert (conditions is not None) == knows_energy
    assert conditions is None or conditions.clock_reasons == ("sw_power_cap", "hw_slowdown")
    assert last.outcome.epochs[0].contention.throttled_seconds == (0.0 if knows_energy else None)
    warnings = (TrialWarning.THROTTLED, TrialWarning.DEVICE_SHARED, TrialWarning.ON_BATTERY)
    assert last.warnings == warnings[: 3 if version >= VARIABLES_AND_BATTERY_VERSION else 2 if knows_energy else 0]
    divides = version >= DIVISION_VERSION
    assert run.header.division == (make_division((1, 1), of=3) if divides else None)
    assert [run.fingerprints[record.fingerprint].software.driver for record in run.records] == [
        *["580.1"] * 3,
        "590.2" if divides else "580.1",
    ]
    knows_more = version >= VARIABLES_AND_BATTERY_VERSION
    assert run.fingerprints[-1].software.variables == ("CUDA_LAUNCH_BLOCKING=1" if knows_more else None)
    assert (first.outcome.on_battery, last.outcome.on_battery) == ((False, True) if knows_more else (None, None))
    assert run.footer == Footer(complete=True, reason="complete", measured=3, failed=1, missing=0, wall_seconds=19.25)


@versions
def test_the_golden_file_encodes_to_the_same_bytes(version: int) -> None:
    lines = GOLDEN_RUNS[version].read_bytes().splitlines(keepends=True)
    assert [runfile.encode(runfile.decode(line)) for line in lines] == lines


if __name__ == "__main__":
    PUBLISHED.write_text(text_of(expected_schema()))
    if not GOLDEN_RUNS[SCHEMA_VERSION].exists():
        GOLDEN_RUNS[SCHEMA_VERSION].write_bytes(b"".join(map(runfile.encode, golden_run())))
