"""How commands end: one sentence on standard error, an exit code, and with ``--json`` one object on standard output."""

import json
from typing import Any

import typer
from typer.core import TyperGroup

from rebasin_core.errors import RebasinError

__all__ = ["Commands"]

INTERRUPTED = 130


class Commands(TyperGroup):
    """A group of commands whose errors are sentences: never a traceback for what a person can put right."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Remember whether a program is listening, for errors that come before the options are read."""
        ctx.meta["json"] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        as_json = ctx.meta["json"]
        try:
            return super().invoke(ctx)
        except (RebasinError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            _tell(f"Error: {error}", str(error), as_json)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            _tell("Interrupted; nothing more is written.", "interrupted", as_json)
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            # Wrong usage, which typer prints and ends with 2; its classes have no public home in all its versions.
            if as_json and hasattr(error, "format_message"):
                typer.echo(json.dumps({"error": error.format_message()}))
            raise


def _tell(sentence: str, error: str, as_json: bool) -> None:
    typer.secho(sentence, err=True, fg=typer.colors.RED)
    if as_json:
        typer.echo(json.dumps({"error": error}))
