"""The command line: all commands, and how their errors and interruptions become messages and exit codes."""

import traceback
from typing import Any

import click

from bench import __version__
from bench.commands.ab import ab_command
from bench.commands.calibrate import calibrate_command, selftest_command
from bench.commands.compare import check_command, compare_command
from bench.commands.list import list_command
from bench.commands.options import EXIT_CODES
from bench.commands.predict import predict_command
from bench.commands.report import export_command, report_command
from bench.commands.run import devices_command, run_command
from bench.commands.shards import merge_command, plan_command
from bench.commands.show import show_command
from bench.errors import BenchError, ExitCode, StorageError
from bench.system.interrupts import Interrupts
from bench.system.outputs import checked_output, say


class Commands(click.Group):
    """The group of all commands. It turns errors into one message and an exit code."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that `args` start with; the message for a misspelt one suggests the nearest."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            from mnist_mlp.spelling import did_you_mean  # noqa: PLC0415 - only where it is misspelt

            ctx.fail(f"No such command {args[0]!r}{did_you_mean(args[0], self.commands)}: --help lists the commands")
        return super().resolve_command(ctx, args)

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:  # noqa: ANN401 - click's signature
        """Parse the arguments; --help and --version are answered here."""
        try:
            with checked_output():
                return super().make_context(*arguments, **options)
        except StorageError as error:  # with a closed pipe, click would end with 1, which means regression
            say(f"bench: {error}")
            raise click.exceptions.Exit(error.exit_code) from None

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Run the command; Ctrl-C, SIGTERM and SIGHUP end it in good order."""
        try:
            with Interrupts() as ctx.obj, checked_output():
                return super().invoke(ctx)
        except BenchError as error:
            say(f"bench: {error}")
            ctx.exit(error.exit_code)
        except OSError as error:
            if error.filename is not None:
                say(f"bench: {error.filename!r} cannot be used: {error.strerror}; name another one")
                ctx.exit(ExitCode.BAD_INPUT)
            say(f"bench: the operating system refused a request: {error.strerror}")
            ctx.exit(ExitCode.FAILED_TRIAL)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception:  # noqa: BLE001 - a defect must not look like a verdict
            say(traceback.format_exc(), end="")
            say("bench: this is a bug in bench, not a verdict: please report it with the lines above")
            ctx.exit(ExitCode.DEFECT)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(__version__, prog_name="bench")
def cli() -> None:
    """Measure how fast, and how well, reference MNIST MLPs train here, and tell noise from real differences.

    \b
    python -m bench run                            # two minutes, one table
    python -m bench run --devices cpu,cuda --batch-sizes 64,1024
    python -m bench list                           # the stored runs
    python -m bench show latest
    python -m bench predict latest                 # step times of any size
    python -m bench report latest                  # one HTML page with charts
    python -m bench export latest --plots plots    # its charts as SVG and PNG
    python -m bench compare OLD NEW                # two stored runs
    python -m bench check OLD NEW --gate accuracy  # as a gate
    python -m bench ab rev:main .                  # two versions live: as a gate
    """  # noqa: D301 - \b is for click: keep these lines as they are


for command in (
    run_command,
    plan_command,
    merge_command,
    show_command,
    list_command,
    predict_command,
    report_command,
    export_command,
    compare_command,
    check_command,
    ab_command,
    calibrate_command,
    selftest_command,
    devices_command,
):
    cli.add_command(command)
