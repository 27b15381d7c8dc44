"""What the page of the configuration shows of keys."""

from asu_builder.http.api.configuration import describe_settings
from asu_builder.settings import LoadedSettings, Settings


def test_keys_of_object_storage_are_never_shown_and_their_names_are() -> None:
    options = {
        "endpoint": "https://s3.example.org",
        "region": "eu-1",
        "access_key_id": "hunter1",
        "secret_access_key": "hunter2",
        "session_token": "hunter3",
    }
    settings = Settings(store_url="s3://images/asu", store_options=options)
    shown = describe_settings(LoadedSettings(settings, {}))
    (entry,) = [setting for setting in shown.settings if setting.name == "store_options"]
    assert entry.value == {
        "endpoint": "https://s3.example.org",
        "region": "eu-1",
        "access_key_id": "…",
        "secret_access_key": "…",
        "session_token": "…",
    }
    assert "hunter" not in repr(shown)
