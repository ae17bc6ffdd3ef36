"""The command line: it parses arguments, prints results to standard output and everything else to standard error."""

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final, Literal, TypeVar

import click

from mnist_mlp import __version__
from mnist_mlp.errors import InvalidValueError, NonFiniteLossError, WorkloadError, is_out_of_memory
from mnist_mlp.paths import PATH, data_root_watch
from mnist_mlp.recipes import (
    DATASETS,
    ENGINES,
    LOSSES,
    OPTIMIZERS,
    OUTPUTS,
    PIPELINES,
    PRECISIONS,
    SCHEDULES,
    TRANSFORMS,
    customise,
)
from mnist_mlp.streams import nowhere, terminal_width

EXIT_BAD_INPUT: Final = 2
EXIT_FAILED: Final = 4
EXIT_INTERRUPTED: Final = 130

EXIT_CODES: Final = "Exit codes: 0 done, 2 bad usage or input, 4 failed or output lost, 130 interrupted."

LEARNABLE: Final = tuple(name for name in DATASETS if name != "synthetic")
_MAX_THREADS: Final = 1024

_DATA_ROOT: Final = data_root_watch(lambda line: click.echo(f"mnist-mlp: {line}", err=True))
_DATA_ROOT_HELP: Final = "Folder that holds the datasets.  [default: in the user's cache]"

Command = TypeVar("Command", bound=Callable[..., Any])


class Commands(click.Group):
    """The group of all commands; it turns an error into one message and an exit code."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:  # noqa: ANN401 - click's signature
        """Parse the arguments; --help and --version are answered here."""
        with _reporting():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Run the command."""
        with _reporting(), _interruptible():
            return super().invoke(ctx)


@contextlib.contextmanager
def _reporting() -> Iterator[None]:
    """Turn an error that is not a mistake in the program into one message and `click.exceptions.Exit` with its code."""
    try:
        yield
    except click.ClickException as error:  # wrong usage
        try:
            error.show()
        except OSError:
            sys.stderr = nowhere()
        code = error.exit_code
    except WorkloadError as error:
        _say(error)
        code = EXIT_FAILED if isinstance(error, NonFiniteLossError) else EXIT_BAD_INPUT
    except KeyboardInterrupt as interruption:
        _say(": ".join(("interrupted", *map(str, interruption.args))))
        code = EXIT_INTERRUPTED
    except OSError as error:
        _report_lost_output(error)
        code = EXIT_FAILED
    except (ImportError, MemoryError, RuntimeError) as error:
        reason = _why_failed(error)
        if reason is None:
            raise
        _say(reason)
        code = EXIT_FAILED
    else:
        return
    raise click.exceptions.Exit(code)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C raise `KeyboardInterrupt`, except where SIGINT is ignored, as in a script's background jobs."""
    in_main_thread = threading.current_thread() is threading.main_thread()  # Python allows it only there
    if not in_main_thread or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(_number: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`. Within an import, whose package could turn it into another error, end the process."""
    if _is_importing(frame):
        _say("interrupted")
        os._exit(EXIT_INTERRUPTED)
    raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    """Return whether the command, whose innermost frame is `frame`, is executing an import."""
    while frame is not None and frame.f_code is not Commands.invoke.__code__:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _say(message: object) -> None:
    """Write a message to standard error; that it cannot be written changes nothing else."""
    try:
        click.echo(f"mnist-mlp: {message}", err=True)
    except OSError:
        sys.stderr = nowhere()


def _report_lost_output(error: OSError) -> None:
    """Say that standard output cannot be written, and its notes; raise `error` again if it is about something else."""
    functions = {frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)}
    if click.echo.__code__ not in functions:  # all output goes through it, click's own too
        raise error
    sys.stdout = nowhere()
    remedy = "" if isinstance(error, BrokenPipeError) else "; make room, or redirect it elsewhere"
    reason = f"the output cannot be written: {error.strerror}{remedy}"
    _say("; ".join((reason, *getattr(error, "__notes__", ()))))


def _why_failed(error: BaseException) -> str | None:
    """Return the message for a failure caused by this machine, with a remedy; None for a mistake in the program."""
    if is_out_of_memory(error):
        return "there is not enough memory: use narrower layers or smaller batches"
    is_foreign = isinstance(error, ImportError) and (error.name or "").partition(".")[0] != __package__
    # A torchvision that was built for another torch raises a RuntimeError when it is imported.
    if is_foreign or "torchvision::nms" in str(error):
        return (
            f"a package that this command needs cannot be imported ({error}): "
            f"run `uv sync`, which installs all packages in matching versions"
        )
    return None


def _data_options(command: Command) -> Command:
    """Add the options for dataset and device, which several commands share."""
    for option in (
        click.option("--data-root", type=PATH, callback=_DATA_ROOT, help=_DATA_ROOT_HELP),
        click.option(
            "--dataset",
            type=click.Choice(LEARNABLE),
            help="[default: mnist; for a saved model, the one it was trained on]",
        ),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            help="cpu, cuda, cuda:1 or mps; auto takes cuda if there is one, else mps, else cpu.",
        ),
    ):
        command = option(command)
    return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(__version__, prog_name="mnist-mlp")
def cli() -> None:
    """Train, evaluate and use multi-layer perceptrons on MNIST.

    \b
    python -m mnist_mlp recipes
    python -m mnist_mlp train mlp_128 --save mnist_model.pth
    python -m mnist_mlp predict mnist_model.pth my_digit.png
    """  # noqa: D301 - \b keeps click from re-wrapping the lines below


@cli.command("recipes", epilog=EXIT_CODES)
@click.option("--format", "layout", type=click.Choice(("table", "markdown", "json")), default="table")
def recipes_command(layout: Literal["table", "markdown", "json"]) -> None:
    """List the recipes and their claimed accuracies. For each one: model, training, and the published test accuracy.

    \b
    python -m mnist_mlp recipes
    python -m mnist_mlp recipes --format json
    """  # noqa: D301 - \b keeps click from re-wrapping the lines below
    from mnist_mlp.tables import recipe_table

    click.echo(recipe_table(layout, terminal_width()))


@cli.command("train", epilog=EXIT_CODES)
@click.argument("model", metavar="RECIPE|LAYERS")
@click.option(
    "--width", type=int, help="Units of the first hidden layer; the other hidden layers are scaled in proportion."
)
@click.option("--output-kind", "output", type=click.Choice(OUTPUTS), help="What the network returns.")
@click.option(
    "--loss", type=click.Choice(tuple(LOSSES)), help="nll needs --output-kind log_softmax, nll_of_log needs softmax."
)
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), help="Update rule; sgd can have a --momentum.")
@click.option("--learning-rate", "--lr", type=float, help="Step size; with a schedule that changes it, the highest.")
@click.option("--schedule", type=click.Choice(SCHEDULES), help="How the learning rate changes during training.")
@click.option("--momentum", type=float, help="For sgd only.")
@click.option(
    "--weight-decay", type=float, help="L2 penalty: this multiple of each parameter is added to its gradient."
)
@click.option("--batch-size", type=int, help="Training samples per step.")
@click.option("--test-batch-size", type=int, help="Samples per forward pass of an evaluation.")
@click.option("--epochs", type=int, help="Passes over the training samples.")
@click.option(
    "--transform",
    type=click.Choice(tuple(TRANSFORMS)),
    help="unit: pixels in [0, 1]; mnist: normalised with MNIST's mean and deviation; half: in [-1, 1].",
)
@click.option("--shuffle/--no-shuffle", default=None, help="Draw a new order of the samples for every epoch.")
@click.option(
    "--validation-split", type=float, default=0.0, help="Fraction of the training samples to hold out for validation."
)
@click.option("--seed", type=int, help="[default: the recipe's, else 0]")
@click.option("--threads", type=click.IntRange(1, _MAX_THREADS), help="CPU threads.  [default: torch's choice]")
@click.option(
    "--pipeline",
    type=click.Choice(PIPELINES),
    default="resident",
    show_default=True,
    help="resident: all images on the device; dataloader: torch's DataLoader. The batches are the same.",
)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="eager",
    show_default=True,
    help="How training steps are executed; every engine computes the same training.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="Arithmetic of the matrix products.",
)
@click.option(
    "--workers",
    type=int,
    default=0,
    show_default=True,
    help="Worker processes of the DataLoader; 0 loads in this process.",
)
@_data_options
@click.option("--plots", type=PATH, metavar="DIR", help="Folder to write learning curves and a grid of predictions to.")
@click.option("--save", type=PATH, metavar="PATH", help="File to save the trained model to.")
@click.option(
    "--history", type=PATH, metavar="PATH", help="CSV file to write each epoch's loss and accuracy to, as it ends."
)
def train_command(  # noqa: PLR0913 - one parameter per option
    *,
    model: str,
    device: str,
    dataset: str | None,
    data_root: Path | None,
    validation_split: float,
    seed: int | None,
    threads: int | None,
    pipeline: str,
    engine: str,
    precision: str,
    workers: int,
    plots: Path | None,
    save: Path | None,
    history: Path | None,
    **changes: Any,  # noqa: ANN401 - checked by `customise`
) -> None:
    """Train a recipe or a layer list such as 784-512-256-10. Loss and accuracy are printed after every epoch.

    Options that you leave out keep the recipe's values, which `recipes` lists. A layer list is trained with Adam at
    0.001 on the cross-entropy of its logits, in batches of 64, for 5 epochs, with transform mnist.

    \b
    python -m mnist_mlp train mlp_512_256
    python -m mnist_mlp train mlp_128 --epochs 3 --save mnist_model.pth --plots plots --history history.csv
    python -m mnist_mlp train 784-300-100-10 --optimizer sgd --learning-rate 0.1 --momentum 0.9
    python -m mnist_mlp train mlp_128_90_50 --validation-split 0.2 --seed 1
    """  # noqa: D301 - \b keeps click from re-wrapping the lines below
    recipe = customise(model, **changes)  # before the import of torch, which takes seconds

    from mnist_mlp.training_command import Outputs, train

    train(
        recipe,
        Outputs(plots=plots, save=save, history=history),
        threads=threads,
        dataset=dataset or "mnist",
        seed=seed,
        device=device,
        validation_split=validation_split,
        pipeline=pipeline,
        engine=engine,
        precision=precision,
        workers=workers,
        data_root=data_root,
    )


@cli.command("evaluate", epilog=EXIT_CODES)
@click.argument("model", type=PATH)
@_data_options
@click.option(
    "--plots", type=PATH, metavar="DIR", help="Folder to write the confusion matrix and a grid of predictions to."
)
@click.option("--format", "layout", type=click.Choice(("text", "json")), default="text", show_default=True)
def evaluate_command(  # noqa: PLR0913 - one parameter per option
    *,
    model: Path,
    device: str,
    dataset: str | None,
    data_root: Path | None,
    plots: Path | None,
    layout: Literal["text", "json"],
) -> None:
    """Evaluate a saved model on test images. Prints loss, accuracy, per-class accuracy and confusion matrix.

    \b
    python -m mnist_mlp evaluate mnist_model.pth
    python -m mnist_mlp evaluate mnist_model.pth --plots plots
    python -m mnist_mlp evaluate mnist_model.pth --format json
    """  # noqa: D301 - \b keeps click from re-wrapping the lines below
    from mnist_mlp.model_commands import evaluate

    evaluate(model, dataset=dataset, data_root=data_root, device=device, plots=plots, layout=layout)


@cli.command("predict", epilog=EXIT_CODES)
@click.argument("model", type=PATH)
@click.argument("images", metavar="IMAGE...", nargs=-1, type=PATH)
@click.option(
    "--index", "indices", type=int, multiple=True, help="Number of a test image, counted from 0; can be repeated."
)
@_data_options
@click.option("--show", is_flag=True, help="Print each picture as the model sees it.")
@click.option("--format", "layout", type=click.Choice(("text", "json")), default="text", show_default=True)
def predict_command(  # noqa: PLR0913 - one parameter per option
    *,
    model: Path,
    images: tuple[Path, ...],
    indices: tuple[int, ...],
    device: str,
    dataset: str | None,
    data_root: Path | None,
    show: bool,
    layout: Literal["text", "json"],
) -> None:
    """Recognise the digits in your own pictures or in test images.

    A picture is a PNG, JPEG, BMP, GIF or WebP file of one digit, of any size, dark on light or light on dark. If a
    file cannot be read, that is reported, the other files are still answered, and the exit code is 2.

    \b
    python -m mnist_mlp predict mnist_model.pth my_digit.png --show
    python -m mnist_mlp predict mnist_model.pth scans/*.jpg --format json
    python -m mnist_mlp predict mnist_model.pth --index 0 --index 8
    """  # noqa: D301 - \b keeps click from re-wrapping the lines below
    from mnist_mlp.model_commands import predict

    if not images and not indices:
        raise click.UsageError("there is nothing to predict: name image files, or choose test images with --index")
    if show and layout == "json":
        raise InvalidValueError("--show prints pictures, which --format json cannot hold: leave one of the two out")
    if not indices and (dataset or data_root):
        raise InvalidValueError(
            "--dataset and --data-root only apply to test images: choose some with --index, or leave them out"
        )
    failures = predict(
        model, images, indices, dataset=dataset, data_root=data_root, device=device, show=show, layout=layout
    )
    for failure in failures:
        click.echo(f"mnist-mlp: {failure}", err=True)
    if failures:
        click.get_current_context().exit(EXIT_BAD_INPUT)


@cli.command("data", epilog=EXIT_CODES)
@click.option("--dataset", type=click.Choice(DATASETS), default="mnist", show_default=True)
@click.option("--data-root", type=PATH, callback=_DATA_ROOT, help=_DATA_ROOT_HELP)
@click.option("--plots", type=PATH, metavar="DIR", help="Folder to write a grid of training images to.")
@click.option("--format", "layout", type=click.Choice(("text", "json")), default="text", show_default=True)
def data_command(*, dataset: str, data_root: Path | None, plots: Path | None, layout: Literal["text", "json"]) -> None:
    """Show what a dataset contains and where it is kept. A dataset that is not there yet is fetched and verified first.

    \b
    python -m mnist_mlp data
    python -m mnist_mlp data --plots plots
    python -m mnist_mlp data --dataset digits --format json
    """  # noqa: D301 - \b keeps click from re-wrapping the lines below
    from mnist_mlp.data_command import describe

    describe(dataset, data_root=data_root, plots=plots, layout=layout)
