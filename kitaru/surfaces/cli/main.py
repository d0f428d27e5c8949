"""The `kitaru` command."""

import click

from kitaru.surfaces.cli.lazy import Entry, LazyGroup

_HERE = "kitaru.surfaces.cli"
_EXECUTIONS = f"{_HERE}.executions"
_STEERING = f"{_HERE}.steering"
_STACK = f"{_HERE}.stack"
_FLOWS = f"{_HERE}.flows"
_DEPLOY = f"{_HERE}.deploy"


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    entries={
        "run": Entry(f"{_HERE}.run", "run", "Start a flow and wait for its result."),
        "deploy": Entry(_DEPLOY, "deploy", "Make a flow's project its next version."),
        "build": Entry(_DEPLOY, "build", "The same without a tag."),
        "invoke": Entry(f"{_HERE}.invoke", "invoke", "Run a deployed version of a flow."),
        "flow": Entry(f"{_HERE}.main", "flow", "Deployed flows, their versions and tags."),
        "executions": Entry(f"{_HERE}.main", "executions", "Look at executions and steer them."),
        "journal": Entry(f"{_HERE}.main", "journal", "Read and check what is recorded."),
        "check": Entry(
            f"{_HERE}.histories", "check", "Replay recorded histories against today's code."
        ),
        "lint": Entry(f"{_HERE}.lint", "lint", "Find what a replay of a flow cannot repeat."),
        "worker": Entry(f"{_HERE}.worker", "worker", "Run executions until it is stopped."),
        "candidate": Entry(f"{_HERE}.candidate", "candidate", "Judge by a bundle.", True),
        "runner": Entry(f"{_HERE}.runner", "runner", "Run the executions of one route.", True),
        "status": Entry(f"{_HERE}.status", "status", "Where the journal is and what it holds."),
        "stack": Entry(f"{_HERE}.main", "stack", "Where flows run, and how to choose."),
        "info": Entry(f"{_HERE}.info", "info", "Every option in force, and who has said so."),
        "init": Entry(f"{_HERE}.init", "init", "Give a folder a journal of its own."),
    },
)
def cli() -> None:
    """Durable execution for Python: flows whose every checkpoint survives crashes and deploys."""


@click.group(
    cls=LazyGroup,
    entries={
        "list": Entry(_EXECUTIONS, "list_command", "The newest executions."),
        "get": Entry(_EXECUTIONS, "get", "One execution: its state, checkpoints and failure."),
        "logs": Entry(f"{_HERE}.logs", "logs", "What an execution has printed in its runners."),
        "resume": Entry(_STEERING, "resume", "Go on with an execution that nobody runs."),
        "replay": Entry(
            f"{_HERE}.replay", "replay", "Fork an execution: run it anew from a call on."
        ),
        "retry": Entry(_STEERING, "retry", "Try a failed execution again."),
        "cancel": Entry(_STEERING, "cancel", "Ask an execution to end."),
        "input": Entry(_STEERING, "input_command", "Answer an execution that waits."),
        "resolve": Entry(_STEERING, "resolve", "Say what came of a call that needs review."),
    },
)
def executions() -> None:
    """Look at executions and steer them. An ID may be the beginning of one."""


@click.group(
    cls=LazyGroup,
    entries={
        "list": Entry(_FLOWS, "list_command", "The flows that were deployed."),
        "show": Entry(_FLOWS, "show", "One flow: its tags and versions."),
        "tag": Entry(_FLOWS, "tag", "Let a tag lead to a version."),
        "untag": Entry(_FLOWS, "untag", "Let a tag no longer lead to a version."),
        "deployments": Entry(f"{_HERE}.main", "deployments", "The versions of a flow."),
    },
)
def flow() -> None:
    """Deployed flows, their versions and tags."""


@click.group(
    cls=LazyGroup,
    entries={
        "list": Entry(_FLOWS, "list_deployments", "The versions of a flow, newest first."),
        "show": Entry(_FLOWS, "show_deployment", "One version of a flow."),
        "logs": Entry(_FLOWS, "deployment_logs", "What executions of a version have printed."),
        "delete": Entry(_FLOWS, "delete_deployment", "Let a version no longer be invoked."),
    },
)
def deployments() -> None:
    """The versions of a flow."""


@click.group(
    cls=LazyGroup,
    entries={
        "show": Entry(f"{_HERE}.journal", "show", "The history of an execution, event by event."),
        "verify": Entry(f"{_HERE}.journal", "verify", "Check that nothing was altered or lost."),
        "export": Entry(f"{_HERE}.histories", "export", "Write an execution into a file."),
        "import": Entry(f"{_HERE}.histories", "import_command", "Take an execution from a file."),
    },
)
def journal() -> None:
    """Read and check what is recorded."""


@click.group(
    cls=LazyGroup,
    entries={
        "list": Entry(_STACK, "list_command", "The stacks of the journal."),
        "current": Entry(_STACK, "current", "The stack of flows that name none."),
        "show": Entry(_STACK, "show", "One stack."),
        "use": Entry(_STACK, "use", "Choose the stack of flows that name none."),
        "create": Entry(_STACK, "create", "Define a stack."),
        "delete": Entry(_STACK, "delete", "Take a stack away."),
    },
)
def stack() -> None:
    """Where flows run, and how to choose."""


def main() -> None:
    """Runs the command line."""
    cli(prog_name="kitaru")
