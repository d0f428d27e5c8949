"""The rare situations that a campaign must have met: without them it would prove nothing."""

from collections import Counter

SOMETIMES = {
    # what the store does
    "crash before commit": "an owner died before its append was written",
    "crash after commit": "an owner died after its append was written and before it heard of it",
    "unknown that happened": "an append whose outcome was unknown had been written",
    "unknown that did not happen": "an append whose outcome was unknown had not been written",
    "busy": "an append was refused for now",
    "disk full": "an append met a full disk",
    "read error": "a read failed",
    "slow beyond the lease": "an append came to the store after its lease was over",
    "claim whose answer was lost": "leases were taken, and the process never heard of it",
    "written by a dead process": "what a process had asked for was written after its death",
    "stale read": "what was read was no longer true when the answer came",
    "lost notification": "a hint that something was written got lost",
    "late notification": "such a hint came late",
    "fenced append": "an append of an older epoch was refused",
    "rebased append": "an owner found a client's event before its own",
    "client's append refused": "a client found somebody's event before its own",
    "lease renewed": "a heartbeat prolonged a lease",
    "renewal refused": "a heartbeat found that the lease was somebody else's",
    "renewal failed": "a heartbeat met a store that failed",
    "batch of several events": "one append brought three events or more",
    "value in a blob": "a result was too large for its event",
    # what processes do
    "owner killed": "a process died",
    "owner killed with several executions": "a process died that ran two executions or more",
    "owner killed in a body": "a process died while a checkpoint's body ran",
    "owner killed while replaying": "a process died before a body went on from what is recorded",
    "owner restarted": "a process of the same name came back",
    "all owners dead": "for a time nobody ran anything",
    "owner paused": "a process stood still for a while",
    "owner paused beyond the lease": "a process stood still until its leases were over",
    "loop blocked while the heartbeat went on": "its leases did not end",
    "take-over": "an execution was taken over from an owner that was believed dead",
    "take-over from a living owner": "the owner that was believed dead was alive",
    "two processes in one execution": "two runners of one execution existed at once",
    "recovery of a recovery": "a take-over was itself taken over before any progress",
    "recovered too often": "an execution failed because its owners kept dying",
    "held for its lease": "a runner waited with a new body until its lease was certain",
    "orderly shutdown": "a process gave its leases back and ended",
    "clock jumped ahead": "the store's clock jumped ahead",
    "clock jumped back": "the store's clock jumped back",
    "clocks drift": "a process's clock went faster or slower than the store's",
    # what happens in executions
    "body run twice": "a checkpoint's body ran again because its outcome was lost",
    "zombie's outcome": "an owner that had lost its lease finished a body",
    "result handed over in a replay": "a recovered body was given what is recorded",
    "checkpoint retried after a crash": "the second attempt was made by another process",
    "flow attempt failed": "a flow's body was run again after it raised",
    "failure delivered": "a body was given a recorded failure",
    "timer fired": "a durable sleep ended",
    "timer due while nobody ran it": "a durable sleep ended late, with its execution's next owner",
    "parked": "an execution that only waited was let go of",
    "woken by its time": "a parked execution went on when its time came",
    "woken by an answer": "a parked execution went on after somebody acted",
    "review requested": "an attempt that may run only once was lost",
    "review resolved": "somebody said what came of it",
    "completed": "an execution completed",
    "failed": "an execution failed",
    "cancelled": "an execution was cancelled",
    "transaction committed": "a checkpoint's writes were committed with its outcome",
    "transaction committed before its owner died": "the record of that was another owner's",
    "cache asked": "a body asked for what an earlier execution may have",
    "result of an earlier execution reused": "and it had it",
    "reused result handed over in a replay": "by another owner than the one that had looked it up",
    "fork ended": "a fork came to its end",
    "offer taken": "a fork's body was given what its source had recorded",
    "override taken": "a fork's body was given what somebody had put in its place",
    "fork taken over": "a fork's owner died, and another one went on",
    # sync flows
    "sync flow's owner killed before an append": "what led to it had happened",
    "sync flow's owner killed behind an append": "nothing had come of it yet",
    "sync flow taken over while its owner lived": "and the owner found out at its next append",
    "sync body run twice": "a sync checkpoint's body ran again because its outcome was lost",
    # what clients do
    "fork begun": "somebody had an execution run anew from one of its calls on",
    "fork of a running execution": "its source had not ended",
    "fork of a fork": "its source was one itself",
    "fork refused": "its source had recorded no such call, or the store failed",
    "duplicate start": "one start was asked for twice",
    "start retried after an unknown outcome": "a start was repeated for that",
    "answer given": "a wait was answered",
    "early answer": "an answer came before the question",
    "duplicate answer": "the same answer came twice",
    "another answer refused": "a second, different answer was refused",
    "wait aborted": "somebody ended a wait",
    "wait expired": "a deadline came before an answer",
    "answer after the deadline": "an answer came too late, and was refused",
    "cancel requested": "somebody asked for an end",
    "cancelled while it waited": "a waiting execution was cancelled",
    "cancel after the end": "a cancel request came too late, and was refused",
    "duplicate cancel": "a cancel request was repeated",
    "failed execution retried": "somebody had a failed execution tried again",
    "client told the end": "whoever waited for an execution was told how it ended",
}
"""Name → what it means."""


class Sometimes:
    """How often each situation was met."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def hit(self, name: str) -> None:
        """This has happened once more. Raises KeyError for what nobody has named."""
        SOMETIMES[name]
        self.counts[name] += 1

    def add(self, other: "Counter[str]") -> None:
        """Takes in what somebody else has met."""
        self.counts.update(other)

    def never(self) -> list[str]:
        """What has not happened yet."""
        return [name for name in SOMETIMES if not self.counts[name]]
