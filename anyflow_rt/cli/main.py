"""The ``anyflow-rt`` command: finds the verb, runs it, turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from anyflow_rt import __version__
from anyflow_rt.cli import bench, build, calibrate, inspect, run
from anyflow_rt.cli.arguments import Parser
from anyflow_rt.errors import AnyflowError
from anyflow_rt.output.target import discard_unfinished

VERBS = {"build": build, "run": run, "bench": bench, "inspect": inspect, "calibrate": calibrate}

FAILED = 1


def parser() -> argparse.ArgumentParser:
    """The whole command line; each verb's file adds its own part."""
    top = Parser(prog="anyflow-rt", description="Video from AnyFlow checkpoints, at any number of steps.")
    top.add_argument("--version", action="version", version=f"anyflow-rt {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, module in VERBS.items():
        verb = verbs.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(verb)
        verb.add_argument("--json", action="store_true", help="print one line of JSON on stdout")
        verb.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 failed, 2 wrong usage, or what the verb answers as its
    ``exit_code``."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        if options.json:
            # Whatever a library prints must not get between a program and its one line.
            with contextlib.redirect_stdout(sys.stderr):
                answer: dict[str, Any] | list[Any] = VERBS[options.verb].execute(options)
            print(json.dumps(answer, separators=(",", ":"), allow_nan=False), flush=True)
        else:
            answer = VERBS[options.verb].execute(options)
    except AnyflowError as error:
        return _fail(options, str(error), error.exit_code)
    except KeyboardInterrupt as error:
        discard_unfinished()
        kept = str(error) or "what was there before is as it was; give the command again"
        return _fail(options, f"interrupted; {kept}", FAILED)
    except BrokenPipeError:
        return FAILED
    except MemoryError as error:
        return _fail(options, f"out of memory ({error}); make fewer or smaller videos at once", FAILED)
    except Exception as error:  # noqa: BLE001 - the last resort: one line for a person, the traceback with --debug
        return _fail(options, f"{type(error).__name__}: {error} (a defect of anyflow-rt; --debug shows where)", FAILED)
    return int(answer.get("exit_code", 0)) if isinstance(answer, dict) else 0


def entry() -> NoReturn:
    """The console script. Every file is closed by now; taking the engines apart would cost a run 0.2 s."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Like Ctrl-C: what is half made is removed. A signal that the parent has us ignore (nohup) stays ignored.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    code = main()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # as where a shell closed it
            with contextlib.suppress(BrokenPipeError):
                stream.flush()
    os._exit(code)


def _fail(options: argparse.Namespace, message: str, code: int) -> int:
    if options.debug:
        traceback.print_exc()
    print(f"anyflow-rt {options.verb}: {' '.join(message.split())}", file=sys.stderr)
    return code
