"""`kitaru deploy --check` and `--move-safe`: what new code makes of what is under way."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import click

from kitaru.bootstrap import blocking, current_runtime
from kitaru.errors import KitaruUsageError
from kitaru.operations import candidates, deployments
from kitaru.operations.candidates import Moved
from kitaru.operations.packaging import Package
from kitaru.sdk.flow import RunOptions
from kitaru.stacks.candidates import CandidateReport, Judged
from kitaru.surfaces.cli.commands import EXIT_DIVERGED
from kitaru.surfaces.cli.deployment_text import deployed_text
from kitaru.surfaces.cli.histories import EXIT_UNKNOWN
from kitaru.surfaces.cli.output import Output
from kitaru.surfaces.cli.text import escaped
from kitaru.verdicts import Judgement


def check_only(ctx: click.Context, flow: Any, seconds: float) -> None:
    """Tells what the flow's code as it is now makes of its unfinished executions."""
    package = flow.packaged(current_runtime(), (), {}, RunOptions(), needs_inputs=False)
    report = _report(flow.name, package, seconds)
    output = Output(ctx)
    output.items(report.judged, lambda: _text(report.judged))
    found = {each.verdict.judgement for each in report.judged}
    if Judgement.DIVERGES in found:
        ctx.exit(EXIT_DIVERGED)
    if Judgement.UNKNOWN in found:
        ctx.exit(EXIT_UNKNOWN)


def deploy_and_move(
    ctx: click.Context, flow: Any, inputs: Mapping[str, Any], tags: dict[str, bool], seconds: float
) -> None:
    """Deploys, and moves the executions that the new version's code fits."""
    runtime = current_runtime()
    package = flow.packaged(runtime, (), dict(inputs), RunOptions())
    report = _report(flow.name, package, seconds)
    version = blocking(runtime, lambda: deployments.deploy(runtime, flow.name, package, tags=tags))
    moved: list[Moved] = blocking(
        runtime, lambda: candidates.move_safe(runtime, version, report.judged)
    )
    lines = [deployed_text(version), *map(_moved_line, moved)]
    Output(ctx).item({"deployment": version, "executions": moved}, lambda: "\n".join(lines))


def _report(flow: str, package: Package, seconds: float) -> CandidateReport:
    report = candidates.check(current_runtime(), flow, package, seconds=seconds)
    if report.problem:
        raise KitaruUsageError(f"The bundle of {flow!r} cannot be loaded: {report.problem}")
    return report


def _text(judged: Sequence[Judged]) -> str:
    if not judged:
        return "No execution is under way."
    counts = Counter(each.verdict.judgement for each in judged)
    total = ", ".join(f"{counts[each]} {each}" for each in Judgement if counts[each])
    return "\n".join([*map(_line, judged), f"{total}."])


def _line(judged: Judged) -> str:
    verdict = judged.verdict
    match verdict.judgement:
        case Judgement.SAFE:
            told = f"safe: {verdict.summary}"
        case Judgement.DIVERGES:
            place = f" at {verdict.place}" if verdict.place else ""
            told = f"diverges{place}, event {verdict.version}: {verdict.summary}"
        case Judgement.UNKNOWN:
            told = f"unknown beyond event {verdict.version}: {verdict.summary}"
    code = "own code" if judged.deployed is None else f"version {judged.deployed}"
    running = ", runs now" if judged.is_running else ""
    return escaped(f"{judged.exec_id} ({judged.status}, {code}{running}) {told}")


def _moved_line(moved: Moved) -> str:
    if moved.is_moved:
        return f"{moved.exec_id} moved"
    return escaped(f"{moved.exec_id} left: {moved.reason}")
