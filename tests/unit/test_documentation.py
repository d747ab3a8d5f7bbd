"""The documentation names every verb, option, exit code and setting, and none that does not exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from sluicegate.control.cli import celery_plugin
from sluicegate.control.cli.root import sluicegate
from sluicegate.control.cli.verb import DEFECT, INTERRUPTED
from sluicegate.schemas import settings
from sluicegate.schemas.exits import Exit

DOCS = Path(__file__).parents[2] / "docs"
COMMANDS = (DOCS / "commands.md").read_text()
NO_DEFAULT = "\N{EN DASH}"
SETTINGS = (DOCS / "settings.md").read_text()


def verbs(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name, verb in group.commands.items():
        yield f"{path} {name}", verb
        if isinstance(verb, click.Group):
            yield from verbs(verb, f"{path} {name}")


VERBS = dict(verbs(sluicegate, "sluicegate"))
HEADING = re.compile(r"^#{2,3} `(sluicegate [\w -]+)`$", re.MULTILINE)


def section(path: str) -> str:
    """What stands below the heading of a verb, up to that of the next."""
    _, _, rest = COMMANDS.partition(f"# `{path}`\n")
    following = re.search(r"^## |^#{2,3} `", rest, re.MULTILINE)
    return rest[: following.start()] if following else rest


def documented_options(text: str) -> set[str]:
    """The long options in the first column of tables."""
    first_cells = re.findall(r"^\| (`--[^|]*) \|", text, re.MULTILINE)
    return {name for cell in first_cells for name in re.findall(r"--[\w-]+", cell)}


def test_every_verb_has_a_section_and_every_section_a_verb() -> None:
    assert sorted(HEADING.findall(COMMANDS)) == sorted(VERBS)


@pytest.mark.parametrize("path", VERBS)
def test_every_option_of_a_verb_is_in_its_table_and_no_other(path: str) -> None:
    options = {
        name
        for parameter in VERBS[path].params
        if isinstance(parameter, click.Option)
        for name in parameter.opts
        if name.startswith("--")
    }
    assert documented_options(section(path)) == options


def test_the_commands_own_options_are_documented() -> None:
    own = {name for option in sluicegate.params for name in option.opts} | {"--help"}
    _, _, rest = COMMANDS.partition("## Options of the command itself\n")
    assert documented_options(rest.partition("\n## ")[0]) == own


@pytest.mark.parametrize("path", VERBS)
def test_every_verb_says_what_it_does_and_shows_an_example(path: str) -> None:
    verb = VERBS[path]
    assert verb.help
    if not isinstance(verb, click.Group):
        assert getattr(verb, "examples", ()), path
        assert f"sluicegate {path.removeprefix('sluicegate ')}" in section(path)
        assert "$ " in section(path)


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_every_verb_prints_json(verb: click.Command) -> None:
    if not isinstance(verb, click.Group) or verb.invoke_without_command:
        assert "--json" in {name for option in verb.params for name in option.opts}


def test_the_verbs_under_celery_are_documented() -> None:
    documented = set(re.findall(r"`celery -A APP ([\w-]+)`", COMMANDS))
    assert documented == {getattr(celery_plugin, name).name for name in celery_plugin.__all__}


def test_the_exit_codes_are_documented_and_no_other() -> None:
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", COMMANDS, re.MULTILINE)]
    assert sorted(codes) == sorted([*map(int, Exit), DEFECT, INTERRUPTED])


def test_the_settings_are_documented_with_their_defaults_readers_and_meanings_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", SETTINGS, re.MULTILINE)
    expected = [
        (
            setting.name,
            f"{NO_DEFAULT if setting.default is None else f'`{setting.default}`'} | "
            f"{', '.join(setting.readers)} | {setting.meaning}",
        )
        for setting in settings.ALL
    ]
    assert rows == expected


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_no_page_names_a_setting_that_does_not_exist(page: Path) -> None:
    named = set(re.findall(r"\b(?:SLUICEGATE|PAUSE)_[A-Z_]+\b", page.read_text()))
    assert named <= {setting.name for setting in settings.ALL}
