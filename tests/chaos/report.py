"""The counts of a run, as text."""

from collections import Counter

from chaos.faults import Injection
from chaos.ledger import EXPECTED, GAVE_UP, IMPOSSIBLE
from chaos.plan import ALL_KINDS
from chaos.world import World

_MEANINGS = {"done": "built", GAVE_UP: "gave up", IMPOSSIBLE: "refused as impossible, as it should be"}
_SHOWN = 40


def render(world: World, injection: Injection, *, seconds: tuple[float, float, float]) -> str:
    """Faults by kind, outcomes by kind, answers by status, violations."""
    ledger = world.ledger
    outcomes = Counter(asked.outcome or "none" for asked in ledger.all())
    under_fire, drained, whole = seconds
    lines = [
        f"{sum(injection.injected.values())} faults in {under_fire:.0f} s; the queue was empty after "
        f"{drained:.0f} s, everything checked after {whole:.0f} s",
        "",
        *_table("faults", "mean seconds", _faults(injection)),
        "",
        *_table(
            "requests accepted", "", [(_meaning(name), count, "") for name, count in outcomes.most_common()]
        ),
        f"  {sum(outcomes.values()):5}  in all, {outcomes.get('none', 0)} without a final answer",
        "",
        *_table("answers", "", [(name, count, "") for name, count in sorted(ledger.answers.items())]),
        "",
        f"{ledger.downloads} downloads compared with their digests, "
        f"{ledger.orders_compared} orders of waiting jobs compared over restarts",
        _jobs(world),
        "",
        f"{len(ledger.violations)} violations",
        *(f"  - {violation}" for violation in ledger.violations[:_SHOWN]),
    ]
    return "\n".join(lines)


def _faults(injection: Injection) -> list[tuple[str, int, str]]:
    rows = []
    for kind in ALL_KINDS:
        count, missed = injection.injected[kind.name], injection.missed[kind.name]
        if count or missed:
            mean = f"{injection.seconds[kind.name] / count:.1f}" if count else ""
            rows.append((f"{kind.name}{f' ({missed} missed)' if missed else ''}", count, mean))
    return rows


def _jobs(world: World) -> str:
    query = (
        "SELECT count(*), count(*) FILTER (WHERE state = 'completed'), coalesce(sum(attempts), 0), "
        "coalesce(sum(retries), 0), coalesce(sum(lease_token), 0) FROM build_jobs"
    )
    ((jobs, completed, attempts, retries, claims),) = world.servers.current.rows(query)
    return (
        f"{jobs} jobs, {completed} completed; {claims} claims, {attempts} counted as lost attempts, "
        f"{retries} retried because of the infrastructure"
    )


def _meaning(outcome: str) -> str:
    if outcome in EXPECTED:
        return f"failed by the world after retries: {outcome}"
    return _MEANINGS.get(outcome, outcome)


def _table(title: str, extra: str, rows: list[tuple[str, int, str]]) -> list[str]:
    return [
        f"{title:>9}",
        *(f"  {count:5}  {name:<45}{text and f'{text} {extra}'}" for name, count, text in rows),
    ]
