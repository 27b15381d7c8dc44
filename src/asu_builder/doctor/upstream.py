"""The download server and the package rules: what requests are understood by."""

from pathlib import Path

from asu_builder.adapters.upstream_formats import parse_versions
from asu_builder.doctor.asking import Unheard, ask
from asu_builder.doctor.scene import Scene
from asu_builder.domain.diagnosis import Finding, well, wrong


def check_upstream(scene: Scene) -> Finding:
    """Whether the download server answers and lists versions."""
    url = scene.settings.upstream_url.rstrip("/")
    remedy = f"See what stands between: curl -I {url}/.versions.json   (a mirror is named by upstream_url)"
    try:
        listed = parse_versions(scene.versions().body)
    except Unheard as error:
        return wrong(f"The download server {url} does not answer: {error}.", remedy)
    except ValueError:
        return wrong(
            f"{url}/.versions.json is no list of versions.",
            "Set upstream_url to a server of the layout of https://downloads.openwrt.org.",
        )
    return well(f"{url} answers and lists {len(listed.listed)} versions.")


def check_release(scene: Scene) -> Finding:
    """Whether the newest release's targets are there."""
    url = scene.settings.upstream_url.rstrip("/")
    remedy = f"Name a complete mirror as upstream_url; try: curl -I {url}/releases/"
    try:
        release, targets = scene.targets()
    except Unheard as error:
        return wrong(f"The newest release's list of targets cannot be had: {error}.", remedy)
    except ValueError as error:
        return wrong(f"The newest release's list of targets cannot be understood: {error}.", remedy)
    if not targets:
        return wrong(f"{url} has no target of {release.version}.", remedy)
    return well(f"The newest release is {release.version}, with {len(targets)} targets.")


def check_rules(scene: Scene) -> Finding:
    """Whether the package rules can be read, from wherever they come."""
    from package_changes.rules import RulesProblem, parse_rules
    from package_changes.watch import built_in_rules, read_rules_text

    settings = scene.settings
    if url := settings.package_changes_url.rstrip("/"):
        try:
            heard = ask("GET", f"{url}/health")
        except Unheard as error:
            return wrong(
                f"The package-changes service {url} does not answer: {error}.",
                "Start it (asu-package-changes), or set package_changes_url to nothing.",
            )
        if heard.status != 200:
            return wrong(f"{url}/health is answered {heard.status}.", f"curl {url}/health")
        return well(f"The package-changes service {url} answers.")
    if not settings.package_changes_path:
        return well(f"{built_in_rules().count} package rules (built in).")
    path = Path(settings.package_changes_path).expanduser()
    try:
        rules = parse_rules(read_rules_text(path), source=str(path))
    except RulesProblem as problem:
        return wrong(f"The package rules are wrong: {problem}", f"asu-builder rules test {path}")
    return well(f"{rules.count} package rules ({path}).")
