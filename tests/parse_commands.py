"""Gives each command of the documentation to the real parser of its program, and runs nothing.

Reads ``[[where, [program, word, ...]], ...]`` as JSON; in a process of its own, since Celery keeps the app.
"""

import json
import sys

import click


def parse_celery(words: list[str]) -> None:
    from celery.bin.celery import celery as command

    parse(command, "celery", words)


def parse_uvicorn(words: list[str]) -> None:
    from uvicorn.importer import import_from_string
    from uvicorn.main import main as command

    parse(command, "uvicorn", words)
    import_from_string(words[0])


def parse(command: click.Command, name: str, words: list[str], parent: click.Context | None = None) -> None:
    """As click does before it calls the command: unknown options and wrong values raise."""
    context = command.make_context(name, list(words), parent=parent)
    if not isinstance(command, click.Group):
        return
    name_found, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    assert name_found is not None
    assert found is not None
    context.invoked_subcommand = name_found
    # The group's own callback sets the app up that its commands belong to.
    if command.callback is not None:
        with context:
            context.invoke(command.callback, **context.params)
    parse(found, name_found, rest, context)


def main() -> None:
    failed = False
    for where, (program, *words) in json.load(sys.stdin):
        try:
            {"celery": parse_celery, "uvicorn": parse_uvicorn}[program](words)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it is told
            failed = True
            print(f"{where}: {program} {' '.join(words)}: {type(error).__name__}: {error}")
        else:
            print(f"{where}: understood")
    sys.exit(failed)


if __name__ == "__main__":
    main()
