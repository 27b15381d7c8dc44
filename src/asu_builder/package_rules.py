"""Package changes: the rules in this process, or those of a service with the former as a fallback."""

import logging
import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from asu_builder.domain.errors import Unavailable
from asu_builder.domain.health import CheckResult
from asu_builder.domain.packages import AppliedRule, Baseline, PackageChangesRecord, PackageSelection
from asu_builder.domain.release import ClientChange
from asu_builder.domain.request import BuildRequest
from asu_builder.loading import LOADING

if TYPE_CHECKING:
    import urllib3

    from package_changes.files import RulesFile
    from package_changes.rules import Rules

_log = logging.getLogger(__name__)

_TIMEOUT = timedelta(seconds=2)
_TRIES = 2
_MAX_RULES_BYTES = 1 << 20
_KEPT = 8
"""Rules that are kept, the present ones with them: jobs wait for hours at most."""
_UNANSWERED = "The package-changes service did not answer; the last known good rules were applied"


class KnownRules:
    """All rules that this process has had, by their digest: what named a request is what it is built by.

    Of those before the present ones some are kept, also in `folder`, for jobs that wait while the rules are
    changed or the service is started again. For any thread.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._found: dict[str, Rules] = {}
        self._restored = folder is None

    def note(self, rules: "Rules") -> "Rules":
        """These are the present ones; they are known from now on."""
        if rules.digest not in self._found:
            with self._lock:
                self._found[rules.digest] = rules
                while len(self._found) > _KEPT:
                    del self._found[next(iter(self._found))]
                self._save(rules)
        return rules

    def digests(self) -> tuple[str, ...]:
        """Of all that are known."""
        if not self._restored:
            with self._lock:
                self._restore()
        return tuple(self._found)

    def of(self, digest: str) -> "Rules":
        """Those of this digest. Raises `Unavailable`."""
        found = self._found.get(digest) if digest in self.digests() else None
        if found is None:
            raise Unavailable(f"The package rules {digest[:12]} are not known here any more.")
        return found

    def _save(self, rules: "Rules") -> None:
        """A folder that takes no file costs only what a restart would have found."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            kept = self._folder / f"{rules.digest}.yaml"
            part = kept.with_suffix(".part")
            part.write_text(rules.text, encoding="utf-8")
            part.replace(kept)
            for old in self._files()[_KEPT:]:
                old.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("The package rules cannot be kept in %s: %s", self._folder, error.strerror)

    def _restore(self) -> None:
        with LOADING:
            from package_changes.files import read_rules_text
            from package_changes.rules import parse_rules
            from package_changes.schema import RulesProblem

        self._restored = True
        for path in self._files()[:_KEPT]:
            if path.stem in self._found:
                continue
            try:
                rules = parse_rules(read_rules_text(path), source=str(path))
            except RulesProblem as problem:
                _log.info("Former package rules are not readable any more: %s", problem)
                continue
            # Read by another version of this program they may mean something else.
            if rules.digest == path.stem:
                self._found = {rules.digest: rules, **self._found}

    def _files(self) -> list[Path]:
        """The newest first."""
        if self._folder is None or not self._folder.is_dir():
            return []
        return sorted(self._folder.glob("*.yaml"), key=lambda path: path.stat().st_mtime_ns, reverse=True)


class LocalPackageChanges:
    """The rules of a file that may change at any time, or the built-in ones.

    They are read at first use: that takes longer than anything the first answer needs.
    """

    def __init__(self, path: Path | None = None, *, kept: Path | None = None) -> None:
        """`kept` is a folder of this process alone for what the rules were before."""
        self._path = path
        self._lock = threading.Lock()
        self._opened: RulesFile | None = None
        self.history = KnownRules(kept)

    def apply(
        self,
        request: BuildRequest,
        *,
        default_packages: Sequence[str],
        baseline: Baseline | None,
        digest: str = "",
        rules: "Rules | None" = None,
    ) -> PackageSelection:
        """What the rules of the file make of a request; with `rules`, what those make of it."""
        with LOADING:
            from package_changes.model import Context

        context = Context(
            request.version,
            request.target,
            request.profile,
            request.wanted,
            tuple(default_packages),
            request.diff_packages,
            from_version=baseline.version if baseline else None,
            from_defaults=baseline.packages if baseline else None,
        )
        rules = rules or self.rules()
        found = (rules if digest in ("", rules.digest) else self.history.of(digest)).apply(context)
        applied = tuple(
            AppliedRule(entry.rule, entry.why, entry.added, entry.removed, dict(entry.renamed))
            for entry in found.applied
        )
        record = PackageChangesRecord(applied, found.warnings, found.missing_defaults)
        return PackageSelection(found.packages, record, found.released)

    def digests(self, request: BuildRequest) -> tuple[str, str]:
        return digests_of(self.rules(), request)

    def present(self) -> str:
        """The digest of the present rules; "" before they were read."""
        return self.rules().digest if self._opened is not None else ""

    def known(self) -> Sequence[str]:
        self.rules()
        return self.history.digests()

    def client_changes(self) -> Sequence[ClientChange]:
        return client_changes_of(self.rules())

    def check(self) -> CheckResult:
        file = self._file()
        if file.problem:
            return CheckResult("warning", f"The last good package rules hold, because of {file.problem}")
        rules = file.current()
        return CheckResult("ok", f"{rules.count} package rules ({rules.source}).")

    def close(self) -> None:
        """Ends watching the file."""
        if self._opened is not None:
            self._opened.stop()

    def rules(self) -> "Rules":
        """The rules as they are now."""
        return self.history.note(self._file().current())

    def _file(self) -> "RulesFile":
        if self._opened is not None:
            return self._opened
        with LOADING:
            from package_changes.files import RulesFile

        with self._lock:
            if self._opened is None:
                opened = RulesFile(self._path)
                opened.start()
                self._opened = opened
            return self._opened


class RemotePackageChanges:
    """The rules of a package-changes service, asked for each build.

    The last rules that it was seen with stay here: they name the requests, and they are applied
    when it does not answer. A build is never made with an unchanged list instead.
    """

    def __init__(self, url: str, built_in: LocalPackageChanges) -> None:
        self._url = url.rstrip("/")
        self._built_in = built_in
        self._history = built_in.history
        self._seen: Rules | None = None
        self._problem = "it was not asked yet"
        self._lock = threading.Lock()
        self._pool: urllib3.PoolManager | None = None

    def apply(
        self,
        request: BuildRequest,
        *,
        default_packages: Sequence[str],
        baseline: Baseline | None,
        digest: str = "",
    ) -> PackageSelection:
        wanted = self._history.of(digest) if digest else self._last_good()

        def by_ourselves() -> PackageSelection:
            return self._built_in.apply(
                request, default_packages=default_packages, baseline=baseline, rules=wanted
            )

        if wanted.digest != self._last_good().digest:
            return by_ourselves()  # the service knows its present rules alone
        question = {
            "version": request.version,
            "target": request.target,
            "profile": request.profile,
            "packages": request.wanted,
            "default_packages": tuple(default_packages),
            "diff_packages": request.diff_packages,
        }
        if baseline is not None:
            question |= {"from_version": baseline.version, "from_defaults": baseline.packages}
        try:
            body = self._ask("POST", "/apply", msgspec.json.encode(question))
            answer = _RESPONSE.decode(body)
        except (OSError, ValueError) as error:
            self._note(str(error))
            found = by_ourselves()
            record = replace(found.record, warnings=(*found.record.warnings, _UNANSWERED))
            return replace(found, record=record)
        if digest and answer.matching_digest != digests_of(wanted, request)[0]:
            return by_ourselves()  # its rules are others since they were asked for last
        return PackageSelection(
            answer.packages,
            PackageChangesRecord(answer.applied, answer.warnings, answer.missing_defaults),
            frozenset(answer.released),
        )

    def digests(self, request: BuildRequest) -> tuple[str, str]:
        return digests_of(self._last_good(), request)

    def present(self) -> str:
        """As that of the rules in this process."""
        return self._seen.digest if self._seen else self._built_in.present()

    def known(self) -> Sequence[str]:
        self._last_good()
        return self._history.digests()

    def client_changes(self) -> Sequence[ClientChange]:
        return client_changes_of(self._last_good())

    def check(self) -> CheckResult:
        if self._problem:
            return CheckResult("warning", f"The package-changes service does not answer: {self._problem}")
        return CheckResult("ok", f"{self._last_good().count} package rules ({self._url}).")

    def refresh(self) -> None:
        """Takes over the service's rules as the last good ones; without an answer the former stay."""
        with LOADING:
            from package_changes.rules import parse_rules
            from package_changes.schema import RulesProblem

        try:
            text = self._ask("GET", "/rules.yaml").decode("utf-8")
            self._seen = parse_rules(text, source=self._url)
        except (OSError, ValueError, RulesProblem) as error:
            self._note(str(error))
        else:
            self._note("")

    def close(self) -> None:
        """Ends watching and connections."""
        self._built_in.close()
        if self._pool is not None:
            self._pool.clear()

    def _last_good(self) -> "Rules":
        return self._history.note(self._seen or self._built_in.rules())

    def _note(self, problem: str) -> None:
        if bool(problem) != bool(self._problem):
            _log.warning("package-changes service %s: %s", self._url, problem or "answers again")
        self._problem = problem

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        with LOADING:
            import urllib3

            from asu_builder.outgoing import open_pool

        with self._lock:
            if self._pool is None:
                timeout = urllib3.Timeout(total=_TIMEOUT.total_seconds())
                retries = urllib3.Retry(total=_TRIES - 1, backoff_factor=0.1, allowed_methods=None)
                self._pool = open_pool(self._url, timeout=timeout, retries=retries)
        try:
            answer = self._pool.request(
                method, self._url + path, body=body, headers={"Content-Type": "application/json"}
            )
        except urllib3.exceptions.HTTPError as error:
            raise OSError(str(error)) from error
        if answer.status != 200 or len(answer.data) > _MAX_RULES_BYTES:
            raise OSError(f"it answered {answer.status} for {path}")
        return answer.data


class _Response(msgspec.Struct):
    packages: tuple[str, ...]
    applied: tuple[AppliedRule, ...] = ()
    warnings: tuple[str, ...] = ()
    missing_defaults: tuple[str, ...] = ()
    released: tuple[str, ...] = ()
    matching_digest: str = ""


_RESPONSE = msgspec.json.Decoder(_Response)


def digests_of(rules: "Rules", request: BuildRequest) -> tuple[str, str]:
    """What `PackageChanges.digests` says of a request by these rules."""
    return rules.matching_digest(request.version, request.target, request.profile), rules.digest


def client_changes_of(rules: "Rules") -> tuple[ClientChange, ...]:
    """The client changes of all revisions."""
    return tuple(
        ClientChange(change.source, change.revision, change.target, change.mandatory)
        for change in rules.client_changes()
    )
