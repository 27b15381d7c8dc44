from dataclasses import replace

import pytest

from package_changes.files import built_in_rules
from package_changes.model import Applied, Context
from rules_text import a_context, a_rule, rules_of

ADD = a_rule("needs", "add: [driver]")
MUST = a_rule("must", "add: [driver]", "mandatory: true")
RENAME = a_rule("called", "rename: {old: new}")
FAMILY = a_rule("family", "rename: {lang-old-*: lang-new-*}")


def packages_of(rules: tuple[str, ...], *asked: str) -> str:
    """What rules make of a request, in one line."""
    return " ".join(rules_of(*rules).apply(a_context(*asked)).packages)


@pytest.mark.parametrize(
    ("rules", "asked", "expected"),
    [
        ((ADD,), "a b", "a b driver"),
        ((ADD,), "a driver b", "a driver b"),
        ((ADD,), "a -driver b", "a -driver b"),
        ((MUST,), "a -driver b", "a b driver"),
        ((MUST,), "driver a -driver", "driver a"),
        ((ADD,), "a b a", "a b driver"),
        ((RENAME,), "a old b", "a new b"),
        ((RENAME,), "old a new", "a new"),
        ((RENAME,), "new a old", "new a"),
        ((RENAME,), "a -old b", "a -new b"),
        ((RENAME,), "-old new", "-old new"),
        ((RENAME,), "-old old", "-old new"),
        ((RENAME,), "-new old", "-new old"),
        ((RENAME,), "-old -new", "-new"),
        ((RENAME,), "older cold -older", "older cold -older"),
        ((FAMILY,), "lang-old-de lang-older lang-old-pt-br", "lang-new-de lang-older lang-new-pt-br"),
        ((FAMILY, a_rule("gone", "remove: [lang-*-en]")), "lang-old-en -lang-old-en", "-lang-new-en"),
        ((a_rule("gone", "remove: [dead]"),), "a dead -dead", "a -dead"),
        ((a_rule("swap", "requested: [x]", "remove: [x]", "add: [y]"),), "x a", "a y"),
        ((a_rule("swap", "requested: [x]", "remove: [x]", "add: [y]"),), "a", "a"),
        ((a_rule("swap", "requested: [x]", "remove: [x]", "add: [y]"),), "-x a", "-x a"),
        ((a_rule("swap", "requested: [x-*]", "add: [y]"),), "x-1 a", "x-1 a y"),
    ],
)
def test_rules_change_a_request(rules: tuple[str, ...], asked: str, expected: str) -> None:
    assert packages_of(rules, *asked.split()) == expected
    assert packages_of(rules, *expected.split()) == expected


def test_the_answer_says_which_rule_did_what_and_why() -> None:
    rules = rules_of(ADD, RENAME, a_rule("gone", "remove: [dead]"), a_rule("idle", "add: [a]"))
    selection = rules.apply(a_context("a", "old", "dead", "-driver"))
    assert selection.applied == (
        Applied("called", "https://example.org/called", renamed={"old": "new"}),
        Applied("gone", "https://example.org/gone", removed=("dead",)),
    )
    assert selection.released == {"old", "dead"}
    assert selection.warnings == ()


def test_what_is_kept_against_the_request_is_said() -> None:
    selection = rules_of(MUST).apply(a_context("-driver"))
    (warning,) = selection.warnings
    assert "driver" in warning
    assert "https://example.org/must" in warning
    assert selection.released == {"-driver"}


def test_a_new_name_that_the_request_removes_is_not_forced_on_it() -> None:
    selection = rules_of(RENAME).apply(a_context("old", "-new"))
    assert "the request removes new" in selection.warnings[0]
    assert selection.released == frozenset()


def test_unused_defaults_are_removed_in_front_after_the_rules() -> None:
    context = replace(
        a_context("z", "old", "-c"),
        diff_packages=True,
        default_packages=("new", "e", "c", "b", "-d", "e"),
        from_defaults=("old", "c", "b", "e"),
    )
    selection = rules_of(RENAME).apply(context)
    assert selection.packages == ("-b", "-e", "z", "new", "-c")
    assert selection.missing_defaults == ()
    assert selection.warnings == ()


def test_defaults_that_are_new_since_the_running_version_are_reported() -> None:
    context = Context(
        *("24.10.4", "x86/64", "generic", ("a",)),
        default_packages=("a", "driver", "dropped", "new", "other", "-other"),
        diff_packages=True,
        from_version="23.05.5",
        from_defaults=("a", "dropped", "old"),
    )
    selection = rules_of(MUST, RENAME).apply(context)
    assert selection.missing_defaults == ("driver",)
    assert selection.packages == ("-dropped", "-new", "-other", "a", "driver")
    assert rules_of(ADD).apply(replace(context, packages=("-driver",))).missing_defaults == ("new",)


def test_without_a_baseline_nothing_is_guessed_and_the_answer_says_so() -> None:
    context = replace(a_context("a"), default_packages=("a", "b"), diff_packages=True)
    selection = rules_of(ADD).apply(context)
    assert selection.packages == ("-b", "a", "driver")
    assert selection.missing_defaults == ()
    assert "running version are not known" in selection.warnings[0]
    assert rules_of(ADD).apply(replace(context, packages=("a", "-b"))).warnings == ()


def test_without_diff_packages_nothing_is_missing() -> None:
    context = replace(a_context("a"), default_packages=("b",), from_defaults=())
    selection = rules_of(ADD).apply(context)
    assert (selection.packages, selection.missing_defaults, selection.warnings) == (("a", "driver"), (), ())


def test_a_change_that_the_running_system_has_behind_it_is_a_choice_unless_it_is_mandatory() -> None:
    since = a_rule("since", "rename: {old: new}", "from_revision: 28000", audience="both")
    must = a_rule("must", "rename: {old: new}", "from_revision: 28000", "mandatory: true", audience="both")
    context = a_context("old", version="25.12.0")

    def after(rule: str, from_version: str | None, from_revision: int | None) -> tuple[str, ...]:
        asked = replace(context, from_version=from_version, from_revision=from_revision)
        return rules_of(rule).apply(asked).packages

    assert after(since, None, None) == ("new",)
    assert after(since, "SNAPSHOT", 27999) == ("new",)
    assert after(since, "SNAPSHOT", 28000) == ("old",)
    assert after(must, "SNAPSHOT", 28000) == ("new",)
    assert after(since, None, 28000) == ("new",)
    # 24.10 counts on from 27990 by itself: 28500 of that branch lacks what main got at 28000.
    assert after(since, "24.10.4", 28500) == ("new",)
    assert after(since, "25.12.0-rc1", 32300) == ("old",)


@pytest.mark.parametrize("version", ["26.10.0", "snapshot", "19.07.1", "24.10"])
def test_an_unknown_version_gets_the_rules_that_match_and_a_warning(version: str) -> None:
    selection = built_in_rules().apply(Context(version, "x86/64", "generic", ("luci-i18n-base-en", "a")))
    assert selection.packages == ("a",)
    assert version in selection.warnings[0]


def test_a_branch_newer_than_all_has_the_changes_of_all() -> None:
    context = Context("26.10.0", "x86/64", "generic", ("opkg", "luci-i18n-opkg-de"))
    assert built_in_rules().apply(context).packages == ("apk-mbedtls", "luci-i18n-package-manager-de")


def test_an_unknown_target_gets_a_warning() -> None:
    selection = rules_of(ADD).apply(replace(a_context("a"), target="nope/generic"))
    assert selection.packages == ("a", "driver")
    assert "nope/generic" in selection.warnings[0]


def test_names_can_be_asked_about_one_by_one() -> None:
    def becomes(name: str) -> tuple[str, ...]:
        return built_in_rules().apply(a_context(name, version="24.10.4")).packages

    assert becomes("luci-i18n-opkg-de") == ("luci-i18n-package-manager-de",)
    assert becomes("opkg") == ("opkg",)
    assert "auc" not in becomes("auc")
    assert becomes("firewall") != ("firewall",)
    assert becomes("luci") == ("luci",)


def test_the_request_stays_as_it_was() -> None:
    context = Context("24.10.4", "x86/64", "generic", ("auc", "a"), ("b",), diff_packages=True)
    before = repr(context)
    built_in_rules().apply(context)
    assert repr(context) == before


def test_an_edit_changes_the_digest_of_the_requests_it_concerns_and_of_no_others() -> None:
    def digests(*rules: str) -> list[str]:
        made = rules_of(*rules)
        return [made.matching_digest(version, "x86/64", "one") for version in ("23.05.5", "24.10.4")]

    old, new = digests(a_rule("a", "versions: [24.10]", "add: [x]"))
    assert old == ""
    assert len(new) == 64
    assert digests(a_rule("b", "versions: [24.10]", "profiles: [one, two]", "add: [x]")) == ["", new]
    assert digests(a_rule("a", "versions: [24.10]", "profiles: [two]", "add: [x]")) == ["", ""]
    changed = digests(a_rule("a", "versions: [24.10]", "add: [y]"))
    assert changed[0] == ""
    assert changed[1] not in ("", new)
