"""Commands on models that are pruned: unpack, look at, time and serve them. They need no service."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli import options
from app.cli.render import console, plain, products_table, speed_table, write_json

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="A folder with a model.", exists=True, file_okay=False)
]

bench = typer.Typer(help="Measure on this machine.", no_args_is_help=True)


def unpack(folder: Folder, out: options.Out, as_json: options.Json = False) -> None:
    """Write a packed model as a dense one again. Tools that know nothing of packing can read it."""
    from eggs_core.checkpoint import Checkpoint
    from eggs_core.errors import OutputExists
    from eggs_core.packed_checkpoint import unpack_checkpoint

    if out.exists():
        raise OutputExists(f"{out} exists. Name a new folder.")
    dense = unpack_checkpoint(folder, out)
    if as_json:
        write_json({"path": str(out), "packed_bytes": Checkpoint(folder).nbytes(), "dense_bytes": dense.nbytes()})
    else:
        console.print(f"The dense model is in {out}", highlight=False, markup=False)


def generate(
    folder: Folder,
    prompt: Annotated[str, typer.Argument(help="How the text begins.")],
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to add at most.")] = 64,
    as_json: options.Json = False,
) -> None:
    """Continue a text by greedy decoding. Takes a packed model or any other."""
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:  # the shell passes any bytes on, and no tokenizer takes these
        raise typer.BadParameter("It is not a text in UTF-8.", param_hint="PROMPT") from error

    from eggs_core.whole import continuation, load

    text, added = continuation(*load(folder), prompt, tokens)
    if as_json:
        write_json({"prompt": prompt, "text": text, "tokens": added})
    else:
        console.print(f"[dim]{plain(prompt)}[/]{plain(text)}", highlight=False)


@bench.command("runtime")
def bench_runtime(
    folder: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="A folder with a packed model.", exists=True, file_okay=False),
    ],
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Sequences at once; may be given again. 1, 4 and 16 otherwise.")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Length of the prompts.")] = 128,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to decode.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that medians are taken of.")] = 3,
    as_json: options.Json = False,
) -> None:
    """Time greedy decoding with a pruned model, dense against packed."""
    import tempfile

    from eggs_core.output import PACKED
    from eggs_core.packed_checkpoint import unpack_checkpoint
    from eggs_core.speed import BATCHES, compare_speed
    from eggs_core.whole import load

    packed_folder = folder / PACKED if (folder / PACKED).is_dir() else folder
    packed, _ = load(packed_folder)
    with tempfile.TemporaryDirectory() as scratch:
        unpack_checkpoint(packed_folder, Path(scratch, "dense"))
        dense, _ = load(Path(scratch, "dense"))
    speeds = compare_speed(
        dense,
        packed,
        batch or BATCHES,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        rounds=rounds,
    )
    if as_json:
        write_json(list(speeds))
    else:
        console.print(speed_table(speeds), products_table(speeds))


def serve_model(
    folder: Folder,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8001,
    as_json: options.Json = False,
) -> None:
    """Serve a model as OpenAI's clients ask. Answers under /v1/completions and /v1/chat/completions."""
    from eggs_core.serving import check_installed, serve

    def listening(address: str) -> None:
        if as_json:
            write_json({"url": address}, indent=None)
        else:
            console.print(f"{folder} is served at {address}", highlight=False, markup=False)

    check_installed()
    serve(folder, host, port, listening)
