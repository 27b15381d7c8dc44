from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from package_changes.files import built_in_rules
from package_changes.model import Context

RULES = built_in_rules()
TOUCHED = sorted(
    {name for rule in RULES for name in rule.add}
    | {str(pattern).replace("*", "app") for rule in RULES for pattern in rule.remove}
    | {str(side).replace("*", lang) for rule in RULES for rename in rule.rename
       for side in (rename.source, rename.target) for lang in ("de", "en")}
)  # fmt: skip
UNTOUCHED = [f"package-{number}" for number in range(12)]
DEVICES = [
    ("x86/64", "generic"),
    ("nope/nope", "generic"),
    *(
        (target, profile)
        for rule in RULES
        for target in rule.targets or ("ath79/generic",)
        for profile in sorted(rule.profiles or {"generic"})[:2]
    ),
]
VERSIONS = ["21.02.7", "22.03.7", "23.05.5", "24.10.0-rc2", "24.10.4", "24.10-SNAPSHOT", "25.12.0",
            "25.12-SNAPSHOT", "26.04.0", "SNAPSHOT", "nonsense"]  # fmt: skip
names = st.sampled_from(TOUCHED) | st.sampled_from(UNTOUCHED)
entries = st.tuples(st.sampled_from(["", "", "-"]), names).map("".join)


@st.composite
def contexts(draw: st.DrawFn) -> Context:
    """Requests that rules like to change, contradictions among them."""
    target, profile = draw(st.sampled_from(DEVICES))
    lists = st.lists(entries, max_size=12).map(tuple)
    return Context(
        version=draw(st.sampled_from(VERSIONS)),
        target=target,
        profile=profile,
        packages=draw(lists),
        default_packages=draw(lists),
        diff_packages=draw(st.booleans()),
        from_version=draw(st.sampled_from([None, *VERSIONS])),
        from_defaults=draw(st.none() | lists),
        from_revision=draw(st.none() | st.integers(0, 40_000)),
    )


@given(contexts())
def test_applying_twice_is_applying_once(context: Context) -> None:
    once = RULES.apply(context).packages
    assert RULES.apply(replace(context, packages=once)).packages == once


@given(contexts())
def test_no_package_is_named_twice(context: Context) -> None:
    packages = RULES.apply(context).packages
    assert len(packages) == len(set(packages))


@given(contexts())
def test_untouched_packages_stay_in_order_and_all_of_them(context: Context) -> None:
    selection = RULES.apply(context)
    kept = [name for name in selection.packages if name in context.packages]
    assert kept == [name for name in dict.fromkeys(context.packages) if name in selection.packages]
    assert set(context.packages) - set(selection.packages) == selection.released
    assert not any(name.removeprefix("-") in UNTOUCHED for name in selection.released)


@given(contexts())
def test_nothing_appears_that_no_rule_and_no_default_explains(context: Context) -> None:
    selection = RULES.apply(context)
    explained = {name for applied in selection.applied for name in applied.added}
    explained |= {name for applied in selection.applied for name in applied.renamed.values()}
    if context.diff_packages:
        explained |= {f"-{name}" for name in context.default_packages if not name.startswith("-")}
    assert set(selection.packages) - set(context.packages) <= explained
    assert set(selection.missing_defaults) <= set(context.default_packages)


@given(contexts())
def test_what_a_device_needs_is_there_whatever_the_request_says(context: Context) -> None:
    selection = RULES.apply(context)
    for applied in selection.applied:
        assert set(applied.added) <= set(selection.packages)
    needed = {
        name
        for rule in RULES
        if rule.mandatory
        and rule.for_builder
        and rule in RULES._matching(context.version, context.target, context.profile)[0]
        for name in rule.add
    }
    assert needed <= set(selection.packages)
    assert not {f"-{name}" for name in needed} & set(selection.packages)


@given(contexts())
def test_unused_defaults_leave_in_front_and_sorted(context: Context) -> None:
    selection = RULES.apply(context)
    plain = RULES.apply(replace(context, diff_packages=False)).packages
    dropped = selection.packages[: len(selection.packages) - len(plain)]
    assert selection.packages == (*dropped, *plain)
    assert list(dropped) == sorted(dropped)
    if context.diff_packages:
        removed = {name.removeprefix("-") for name in selection.packages if name.startswith("-")}
        assert {name for name in context.default_packages if name[0] != "-"} <= removed | set(plain)
