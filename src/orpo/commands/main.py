"""`orpo COMMAND`: finds the command, runs it, and turns errors into one line and an exit code.

Exit codes: 0 done, 2 the user's input was wrong, 128 + N stopped by signal N after a checkpoint,
1 anything else. Nothing heavy is imported before a command is chosen: its module has `EXAMPLES`,
`Options`, a dataclass of `orpo.options`, and `run(options)`, which gives what `--json` prints or an
exit code; or `ACTIONS` and examples, where it has several.
"""

import argparse
import errno
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib import import_module
from itertools import pairwise
from typing import Any, NoReturn

from orpo import __version__
from orpo.commands.help import Formatter, Help, shown
from orpo.errors import ConfigError, OrpoError, RunStopped, UserError, did_you_mean
from orpo.runs.processes import LOST, launched, lost_a_rank, rank
from orpo.terminal import guarded, json_line, showing

COMMANDS = {
    "demo": "the whole story on an embedded model and data: no network, no settings",
    "train": "align a model on preference pairs",
    "data": "check, show and clean preference data: audit, show, fix",
    "evaluate": "is it better: preference, win-rate, alpaca, mt-bench, harness",
    "compare": "ORPO beside SFT and SFT+DPO, from the same start and at equal budget",
    "tune": "learning rate and lambda by short runs on held-out pairs",
    "generate": "answer prompts from a file",
    "chat": "talk to a model",
    "merge": "merge a LoRA adapter into its base model",
    "push": "put a run's model on the Hub, with a card of its real numbers",
    "serve": "hand a model over to an OpenAI-compatible server",
    "export": "write a model as GGUF, with llama.cpp's own converter",
    "report": "draw the report of a run folder",
    "convert-config": "a recipe from the settings of TRL, LLaMA-Factory, Axolotl or ms-swift",
    "bench": "speed and memory beside TRL's trainer, on the same rows",
    "doctor": "what is installed and would be chosen; or what of a run folder is sound",
}

_OVERVIEW = """\
usage: orpo COMMAND [options]

Odds Ratio Preference Optimization: align a language model on preference pairs,
in one stage and without a reference model.

commands:
{commands}

options:
  -h, --help    this text
  --version     the version

examples:
  orpo demo
  orpo train --model Qwen/Qwen2.5-0.5B --dataset pairs.jsonl --output_dir run
  orpo train recipe.yaml --learning_rate 1e-5
  orpo chat run

`orpo COMMAND --help` shows a command's options and examples."""
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE}


def _suggestion(name: str, known: set[str], value: str) -> str:
    """What may be meant by an option; names of settings are spelled as options."""
    from orpo.migrate.convert import suggestion  # noqa: PLC0415 - transformers comes with it

    found = suggestion(name, {flag.replace("-", "_") for flag in known}, value or None)
    if "learning_rate" not in known and not found.startswith("Did"):
        return ""  # what other trainers' settings are here is of no use where nothing is trained
    return re.sub(r"'(\w+)'(?=.*\?$)", r"--\1", found)


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line, and its help a page."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage; of a value that there is not, what is near it."""
        about = re.fullmatch(r"argument ([^:/]+)[^:]*: (.*?)\.*", message, re.DOTALL)
        where, what = about.groups() if about else (self.prog, message)
        where = where if where.startswith("-") else self.prog
        wrong = re.fullmatch(r"invalid choice: '(.*)' \(choose from (.*)\)", what, re.DOTALL)
        if wrong:
            there = re.findall(r"[^\s,'\"]+", wrong[2])
            what = f"{wrong[1]!r} is none of {', '.join(there)}"
            raise ConfigError(what, where=where, fix=did_you_mean(wrong[1], there))
        what = re.sub(r"^invalid (\S+) value: ", r"expected \1, found ", what)
        raise ConfigError(what, where=where, fix=f"See `{self.prog} --help`.")

    def format_help(self, word: str = "") -> str:
        """What `--help`, `--help all` or `--help WORD` prints."""
        return shown(self, word)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        """As in argparse; an option that there is not is named with what may be meant."""
        given: argparse.Namespace
        given, unknown = self.parse_known_args(args, namespace)
        if not unknown:
            return given
        flag, _, value = next((w for w in unknown if w.startswith("--")), "").partition("=")
        following = dict(pairwise(unknown)).get(flag, "")
        known = {flag[2:] for flag in self._option_string_actions if flag.startswith("--")}
        found = flag and _suggestion(flag[2:], known, value or following)
        if not flag:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        fix = found or f"See `{self.prog} --help`."
        raise ConfigError(f"there is no option {flag}", where=self.prog, fix=fix)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    with guarded():
        try:
            return _dispatch(arguments)
        except KeyboardInterrupt:
            _say("interrupted")
            return 130
        except Exception as error:
            return _explain(error)


def _explain(error: Exception) -> int:
    """One line on stderr, or what a bug leaves; and the exit code."""
    said, code, speaker = str(error), 1, f"rank {rank()}: " if rank() else ""
    if isinstance(error, BrokenPipeError):  # the reader of stdout has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, RunStopped):
        if rank() == 0:
            _say(str(error))
        return 128 + error.signal_number
    if isinstance(error, OrpoError):
        code = 2 if isinstance(error, UserError) else 1
    elif lost_a_rank(error):
        if launched():  # the launcher knows which rank ended, and why
            return LOST
        first = next(iter(said.splitlines()), "")
        said, speaker = f"rank {rank()} lost another rank, see above or below ({first})", ""
    elif said.startswith("DataLoader worker"):  # killed, as the system does when memory runs out
        said = (
            f"a process that reads the data has ended: {said.strip(' .')}. Go on from the last "
            "checkpoint with the same command and --resume, or with fewer dataloader_num_workers."
        )
    elif isinstance(error, OSError) and (error.filename or error.errno in _OF_THE_DISK):
        # A file that cannot be read or written is no fault of the program.
        where = f"{error.filename}: " if error.filename else ""
        said, speaker = f"{where}{error.strerror or error}", ""
        code = 1 if error.errno in _OF_THE_DISK else 2
    else:
        traceback.print_exc()
        return 1
    _say(f"{speaker}error: {' '.join(said.split())}")
    return code


def _say(line: str) -> None:
    from orpo.commands.console import say  # noqa: PLC0415 - not where nothing is said

    say(line)


def run() -> NoReturn:
    """The entry point of the `orpo` script."""
    sys.exit(main())


def _dispatch(arguments: list[str]) -> int:
    name = arguments[0] if arguments else "--help"
    if name in {"-h", "--help"}:
        print(_overview())
        return 0
    if name == "--version":
        print(f"orpo {__version__}")
        return 0
    if name not in COMMANDS:
        raise _no_command(name, arguments[1:])
    _quiet()
    command: Any = import_module(f"orpo.commands.{name.replace('-', '_')}")
    words, what, rest = name, COMMANDS[name], arguments[1:]
    if hasattr(command, "ACTIONS"):
        parser = _parser(f"orpo {name}", what, command.EXAMPLES)
        action, rest = _action(parser, command.ACTIONS, rest)
        if action is None:
            print(parser.format_help())
            return 0
        words, what = f"{name} {action}", command.ACTIONS[action]
        command = import_module(f"orpo.commands.{words.replace(' ', '_').replace('-', '_')}")
    return _run(command, _parser(f"orpo {words}", what, command.EXAMPLES), rest)


def _no_command(name: str, more: Sequence[str]) -> ConfigError:
    """The complaint about a first word that is no command, with the one that is meant."""
    what, fix = f"there is no command {name!r}", f"Commands: {', '.join(COMMANDS)}."
    if name.startswith("-") or name.endswith((".yaml", ".yml")):
        fix = f"Did you mean `orpo train {name}`?"
    else:
        words = {f"{of} {one}": one for of in ("data", "evaluate") for one in _actions(of)}
        near = {**{one: whole for whole, one in words.items()}, **{one: one for one in COMMANDS}}
        joined = f"{name}-{more[0]}" if more else ""
        found = next((n for n in (joined, name) if did_you_mean(n, near, shown="{}")), "")
        meant = did_you_mean(found, near)[len("Did you mean ") : -1] if found else ""
        fix = f"Did you mean `orpo {near[meant]}`?" if meant else fix
    return ConfigError(what, where="orpo", fix=fix)


def _actions(command: str) -> Mapping[str, str]:
    actions: Mapping[str, str] = import_module(f"orpo.commands.{command}").ACTIONS
    return actions


def _parser(prog: str, what: str, examples: str) -> Parser:
    parser = Parser(
        prog=prog,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=examples,
        formatter_class=Formatter,
        allow_abbrev=False,
        add_help=False,
    )
    how: Any = {"action": Help, "nargs": "?", "metavar": "WORD", "default": argparse.SUPPRESS}
    parser.add_argument("-h", "--help", **how, help="this text; `all`, or those with a word")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return parser


def _action(
    parser: Parser, actions: Mapping[str, str], words: list[str]
) -> tuple[str | None, list[str]]:
    """Which action is asked for, and all other words; None to show what there is."""
    group = parser.add_subparsers(dest="action", metavar="ACTION", title="actions")
    for name, text in actions.items():
        group.add_parser(name, help=text)
    at = next((i for i, word in enumerate(words) if not word.startswith("-")), len(words))
    parser.parse_args(words[: at + 1])  # shows the help, or refuses what there is not
    return (words[at], words[:at] + words[at + 1 :]) if at < len(words) else (None, [])


def _run(command: Any, parser: Parser, arguments: list[str]) -> int:
    from orpo.commands.flags import add_options, options_from  # noqa: PLC0415 - not for --version

    add_options(parser, command.Options)
    passed_on: list[str] = []
    if getattr(command, "PASSES_ON", False) and "--" in arguments:  # to the program that it starts
        at = arguments.index("--")
        arguments, passed_on = arguments[:at], arguments[at + 1 :]
    given = parser.parse_args(arguments)
    given.passed_on = passed_on
    from orpo.commands.bars import BARS  # noqa: PLC0415 - not for a refusal

    with showing(BARS.around) if rank() == 0 else nullcontext():
        result = command.run(options_from(given, command.Options))
    if isinstance(result, int):  # of the processes that it has started
        return result
    if given.json and result is not None:
        print_json(result)
    return 0


def print_json(result: Any) -> None:
    """One object on stdout; what would steer a terminal is spelled out."""
    print(json_line(result))


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{text}" for name, text in COMMANDS.items()]
    return _OVERVIEW.format(commands="\n".join(lines))


def _quiet() -> None:
    """Libraries keep their progress bars and advice to themselves; orpo says what matters."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # misses a kernel nobody asked for
    for name, value in {
        **{"TRANSFORMERS_VERBOSITY": "error", "DATASETS_VERBOSITY": "error"},
        "HF_HUB_VERBOSITY": "error",  # it tells of every try to reach the Hub
        **{"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"},
        **{"TRANSFORMERS_NO_ADVISORY_WARNINGS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"},
        "TOKENIZERS_PARALLELISM": "0",  # see orpo.data.tokenize
    }.items():
        os.environ.setdefault(name, value)
