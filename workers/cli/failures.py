"""What a user sees of an error: one sentence and an exit code, never a bare traceback."""

import errno
import os
import sys
from typing import Any, Final

import click
from click.exceptions import Exit

from broker.errors import AmibusError, BusUnavailable, SettingsError

WRONG_USE: Final = 2
UNKNOWN: Final = 3
BUG: Final = 70
"""EX_SOFTWARE."""
SETTINGS: Final = 78
"""EX_CONFIG: starting again does not help, so the systemd unit does not."""
INTERRUPTED: Final = 130

TRACEBACK_VARIABLE: Final = "AMIBUS_TRACEBACK"


class Failure(AmibusError):
    """Ends the command with this sentence and exit code."""

    def __init__(self, sentence: str, exit_code: int = 1) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class Amibus(click.Group):
    """The command group: whatever its commands raise comes out as a sentence."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Exit(INTERRUPTED) from None
        except BrokenPipeError:
            leave_closed_pipe()
            raise Exit(0) from None
        except (click.ClickException, Exit, click.Abort):
            raise
        except Exception as error:
            if os.environ.get(TRACEBACK_VARIABLE):
                raise
            failure = failure_of(error)
            click.echo(f"amibus: {failure}", err=True)
            raise Exit(failure.exit_code) from None


def leave_closed_pipe() -> None:
    """Forget the standard output: its reader (`| head`) has gone, and Python would complain of it when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def failure_of(error: BaseException) -> Failure:
    """The sentence and the exit code of any error."""
    known = known_error(error)
    if isinstance(known, Failure):
        return known
    if isinstance(known, SettingsError):
        return Failure(str(known), SETTINGS)
    if isinstance(known, BusUnavailable):
        return Failure(f"{known} (the address is AMIBUS_REDIS, or --redis)")
    if known is not None:
        return Failure(str(known))
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure(f"the output cannot be written: {error.strerror}")
    hint = f"this is a bug, {TRACEBACK_VARIABLE}=1 in the environment shows where"
    return Failure(f"unexpected {type(error).__name__}: {error}; {hint}", BUG)


def known_error(error: BaseException) -> AmibusError | None:
    """The first error of ours in an exception, or in the group of them that a TaskGroup raises."""
    if isinstance(error, AmibusError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [known for each in error.exceptions if (known := known_error(each)) is not None]
        # What only an operator can mend explains the rest.
        return next((each for each in found if isinstance(each, SettingsError)), found[0] if found else None)
    return None
