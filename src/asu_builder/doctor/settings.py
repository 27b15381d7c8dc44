"""The settings: which files were read, and each that is wrong."""

from pathlib import Path

from asu_builder.doctor.scene import Scene
from asu_builder.domain.diagnosis import Finding, doubtful, well, wrong
from asu_builder.settings import CONFIG_FILES


def check_settings(scene: Scene) -> Finding:
    """Whether each setting is one, and has a value that it may have."""
    survey = scene.survey
    files = ", ".join(map(str, survey.read)) or "no file"
    variables = sum(origin.startswith("variable ") for origin in survey.origins.values())
    read = f"Read: {files}, and {variables} variable{'' if variables == 1 else 's'}"
    if survey.problems:
        return wrong(
            f"{len(survey.problems)} wrong: {'; '.join(survey.problems)}. {read}.",
            "Correct or remove each; docs/settings.md says what each may be. The checks below go by the "
            "default of each that is wrong.",
        )
    if exposed := _exposed(scene, survey.read):
        return doubtful(f"{exposed} holds tokens and may be read by everybody.", f"chmod o-rwx {exposed}")
    absent = ", ".join(map(str, survey.absent))
    looked = f" (also looked for: {absent})" if absent and len(survey.read) < len(CONFIG_FILES) else ""
    return well(f"{read}{looked}.")


def _exposed(scene: Scene, files: tuple[Path, ...]) -> Path | None:
    origin = scene.survey.origins.get("api_tokens", "")
    holding = [path for path in files if str(path) == origin]
    return next((path for path in holding if path.stat().st_mode & 0o004), None)
