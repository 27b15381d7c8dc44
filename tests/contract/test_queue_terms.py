"""A worker claims only what was named under terms that it holds to."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from asu_builder.core.housekeeping import delete_with_files
from asu_builder.domain.job import Job, Retention
from asu_builder.domain.nodes import Takes, takes_of
from asu_builder.domain.request import Terms
from asu_builder.ports import JobQueue, Operations, RetentionRepository
from factories import a_failure, a_submission, removes

LEASE = timedelta(minutes=1)
OURS = Terms(1, "", "ours")
TAKES = Takes(1, ("",), ("ours", "former"))


def submit(queue: JobQueue, name: str, terms: Terms) -> Job:
    return queue.submit(replace(a_submission(packages=(name,)), terms=terms)).job


def claim(queue: JobQueue, takes: Takes | None = TAKES, only: int | None = None) -> int | None:
    claimed = queue.claim("w/1", lease_for=LEASE, takes=takes, only=only)
    return claimed and claimed[0].id


@pytest.mark.parametrize(
    "terms", [Terms(2, "", "ours"), Terms(1, "fixed", "ours"), Terms(1, "", "others"), Terms(1, "", "")]
)
def test_jobs_of_other_terms_wait_at_their_places_and_hold_up_none(queue: JobQueue, terms: Terms) -> None:
    other = submit(queue, "first", terms)
    own = [submit(queue, name, OURS) for name in ("second", "third")]
    assert [claim(queue) for _ in range(3)] == [own[0].id, own[1].id, None]
    assert claim(queue, only=other.id) is None, "not by its number either"
    assert queue.position(other.id) == 0 and queue.pending() == 1
    theirs = Takes(terms.edition, (terms.errata,), (terms.rules,))
    claimed = queue.claim("w/2", lease_for=LEASE, takes=theirs)
    assert claimed is not None and claimed[0].id == other.id and claimed[0].terms == terms


@pytest.mark.parametrize("terms", [OURS, Terms(1, "", "former"), Terms()])
def test_its_own_terms_former_ones_and_jobs_of_before_are_taken(queue: JobQueue, terms: Terms) -> None:
    job = submit(queue, "vim", terms)
    assert claim(queue) == job.id
    found = queue.find(job.request_hash)
    assert found is not None and found.terms == terms


def test_who_says_nothing_takes_all(queue: JobQueue) -> None:
    job = submit(queue, "vim", Terms(7, "any", "rules"))
    assert claim(queue, None) == job.id


def test_what_is_queued_again_keeps_its_terms(queue: JobQueue, operations: Operations) -> None:
    job = submit(queue, "vim", Terms(1, "", "others"))
    claimed = queue.claim("w/1", lease_for=LEASE)
    assert claimed is not None
    queue.finish(claimed[1], a_failure(), Retention(LEASE, LEASE))
    again = operations.requeue(job.request_hash)
    assert again is not None and again.terms == job.terms
    assert claim(queue) is None, "its hash was given by other rules"


def test_what_has_come_back_is_left_to_its_own_again(queue: JobQueue) -> None:
    job = submit(queue, "vim", Terms(1, "", "others"))
    claimed = queue.claim("w/1", lease_for=LEASE)
    assert claimed is not None
    queue.release(claimed[1])
    assert claim(queue) is None
    assert claim(queue, takes_of(["others"])) == job.id


def test_what_is_queued_again_after_its_job_was_deleted_keeps_its_terms(
    queue: JobQueue, operations: Operations, retention: RetentionRepository
) -> None:
    job = submit(queue, "vim", Terms(1, "", "others"))
    queue.cancel(job.id, failure_ttl=LEASE)
    assert delete_with_files(retention, job.request_hash, remove=removes(), unexpired=True)
    again = operations.requeue(job.request_hash)
    assert again is not None and again.terms == job.terms
