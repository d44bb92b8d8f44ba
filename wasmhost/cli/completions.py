"""``wasmhost completions``: completion of commands and options in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from wasmhost.cli.app import App, output_option, pass_app

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_WASMHOST_COMPLETE"


@click.command(short_help="have the shell complete commands and options")
@click.argument("shell", type=click.Choice(SHELLS))
@output_option
@pass_app
def completions(app: App, shell: str) -> None:
    """Print the script that makes SHELL complete commands, options, contexts, and what runs in the lattice.

    \b
    source <(wasmhost completions bash)           in ~/.bashrc
    source <(wasmhost completions zsh)            in ~/.zshrc, below compinit
    wasmhost completions fish | source            in ~/.config/fish/config.fish
    """
    kind = get_completion_class(shell)
    root = click.get_current_context().find_root().command
    assert kind is not None
    completion = kind(root, {}, "wasmhost", VARIABLE)
    # Not source(): that asks the installed bash for its version, and warns where there is none.
    script = completion.source_template % completion.source_vars()
    # fish gets kind, word and help in one line; of a help with commas click's script would show the beginning only.
    script = script.replace('string split ","', 'string split --max 1 ","')
    if app.output.json:
        app.output.document({"shell": shell, "script": script})
    else:
        app.output.block(script)
