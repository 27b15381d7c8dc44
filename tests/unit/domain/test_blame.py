"""Whose fault it is: the user's only where that is sure, and everything named."""

from collections.abc import Mapping

import pytest

from asu_builder.domain import diagnosis
from asu_builder.domain.errors import BuildFailed, FailureReason, Side
from asu_builder.domain.make import Announced, Circumstances
from asu_builder.domain.packages import explain_selection, find_too_big
from factories import TRANSCRIPTS, a_request, the_case

FEED = "https://feed.example.org/25.12/aarch64_generic"
INDEX = f"{FEED}/packages.adb"
OFFICIAL = "https://downloads.example.org/releases/25.12.0/packages/aarch64_generic/base/packages.adb"
TRACE = "make[2]: *** [Makefile:254: package_install] Error 2\n"


def found(
    *,
    packages: tuple[str, ...] = (),
    defaults: tuple[str, ...] = (),
    announced: Mapping[str, str] | None = None,
    **changes: object,
) -> Circumstances:
    """A request with what is known beside it."""
    request = a_request(packages=packages, **changes)
    return Circumstances(request, defaults, lambda: Announced("r1-a", announced))


def blamed(
    stderr: str,
    circumstances: Circumstances | None = None,
    *,
    reason: FailureReason = FailureReason.SETUP_FAILED,
) -> BuildFailed:
    """The failure of a make that printed this and did not succeed."""
    return diagnosis.blame_make(circumstances or found(), stderr, otherwise="Error: It failed", reason=reason)


def test_a_package_that_opkg_cannot_download_is_the_worlds() -> None:
    """Case 01: infrastructure, `upstream_unreachable`, retried; built once the file is back; the package
    named."""
    failure = blamed(the_case("01-opkg-package-download-failed.txt"), found(packages=("coreutils-sleep",)))
    assert (failure.reason, failure.side) == (FailureReason.UPSTREAM_UNREACHABLE, Side.INFRASTRUCTURE)
    assert "coreutils-sleep" in failure.detail and list(failure.problem.undelivered) == ["coreutils-sleep"]


def test_a_package_that_is_not_what_the_index_says_is_the_worlds() -> None:
    """Case 02: infrastructure, retried, the package named."""
    failure = blamed(the_case("02-opkg-checksum.txt"), found(packages=("snmpd",)))
    assert (failure.reason, failure.side) == (FailureReason.UPSTREAM_UNREACHABLE, Side.INFRASTRUCTURE)
    assert "snmpd" in failure.detail


def test_every_apk_line_about_a_package_of_an_index_is_the_worlds() -> None:
    """Case 04: infrastructure, retried, the package named (the last: no space, infrastructure too)."""
    lines = the_case("04-apk-package-fetch.txt").splitlines()
    assert len(lines) >= 7
    for line in lines:
        failure = blamed(f"{line}\n{TRACE}")
        assert failure.side is Side.INFRASTRUCTURE, line
        (name,) = failure.problem.undelivered
        assert line.startswith(f"ERROR: {name}-") and name in failure.detail


def test_a_virtual_package_names_both_sides_and_its_providers() -> None:
    """Case 06: user; names `libudev`, the one who needs it (`usbutils`), the provider (`libudev-zero`)."""
    failure = blamed(the_case("06-apk-virtual.txt"), found(packages=("usbutils",)))
    assert (failure.reason, failure.side) == (FailureReason.IMPOSSIBLE_SELECTION, Side.USER)
    assert failure.problem.missing == ("libudev",)
    assert failure.problem.needed_by == {"libudev": ("usbutils",)}
    assert failure.problem.providers == {"libudev": ("libudev-zero",)}
    assert all(name in failure.detail for name in ("libudev", "usbutils", "libudev-zero"))


def test_a_directory_as_an_apk_repository_is_told_what_apk_wants() -> None:
    """Case 21: user; says that apk wants the address of `packages.adb`."""
    request = a_request(repositories={"mine": "https://feed.example.org/25.12"})
    failure = diagnosis.blame_repository(request, the_case("21-apk-directory.txt"))
    assert failure is not None and (failure.reason, failure.side) == (FailureReason.BAD_REPOSITORY, Side.USER)
    assert "apk wants the address of its index: https://feed.example.org/25.12/packages.adb" in failure.detail
    assert failure.field == "repositories"


LASTING = {
    "untrusted": f"WARNING: updating and opening {INDEX}: UNTRUSTED signature\n"
    f"WARNING: opening from cache {INDEX}: No such file or directory\n",
    "bad": f"WARNING: opening {INDEX}: BAD signature\n",
    "404": f"WARNING: updating and opening {INDEX}: HTTP 404: Not Found\n",
    "403": f"WARNING: updating and opening {INDEX}: HTTP 403: Forbidden\n",
    "format": f"WARNING: opening {INDEX}: ADB header error\n",
}
PASSING = {
    "timeout": f"WARNING: updating and opening {INDEX}: operation timed out\n",
    "dns": f"WARNING: updating and opening {INDEX}: DNS: transient error (try again later)\n",
    "no name": f"WARNING: updating and opening {INDEX}: DNS: name does not exist\n",
    "503": f"WARNING: updating and opening {INDEX}: HTTP 503: Service Unavailable\n",
    "500": f"WARNING: updating and opening {INDEX}: HTTP 500: Internal Server Error\n",
    "refused": f"WARNING: opening {INDEX}: could not connect to server (check repositories file)\n",
    "temporary": f"WARNING: opening {INDEX}: temporary error (try again later)\n",
    "new": f"WARNING: opening {INDEX}: words that no apk has printed yet\n",
}
UNCLEAR = {
    "eof": f"WARNING: updating and opening {INDEX}: unexpected end of file\n"
    f"WARNING: opening from cache {INDEX}: No such file or directory\n",
    "remote": f"WARNING: opening {INDEX}: remote server returned error (try 'apk update')\n",
    "cache": f"WARNING: opening from cache {INDEX}: No such file or directory\n",
}
"""What apk prints of a `wget -q` that failed, whatever the server answered."""
OPKG = "https://feed.example.org/24.10/x"
NO_LIST = (
    f"Downloading {OPKG}/Packages.gz\n*** Failed to download the package list from {OPKG}/Packages.gz\n\n"
)
NO_SIGNATURE = f"Downloading {OPKG}/Packages.sig\nSignature file download failed.\n"
OPKG_LASTING = {
    "untrusted": f"Downloading {OPKG}/Packages.sig\nSignature check failed.\nRemove wrong Signature file.\n",
    "401": f"{NO_LIST} * opkg_download: Failed to download {OPKG}/Packages.gz, wget returned 6.\n",
}
OPKG_PASSING = {
    "no answer": f"{NO_LIST} * opkg_download: Failed to download {OPKG}/Packages.gz, wget returned 4.\n"
    " * opkg_download: Check your network settings and connectivity.\n",
    "TLS": f"{NO_LIST} * opkg_download: Failed to download {OPKG}/Packages.gz, wget returned 5.\n",
    "no answer for the signature": f"{NO_SIGNATURE}"
    f" * opkg_download: Failed to download {OPKG}/Packages.sig, wget returned 4.\n",
}
OPKG_UNCLEAR = {
    "gz": f"{NO_LIST} * opkg_download: Failed to download {OPKG}/Packages.gz, wget returned 8.\n",
    "bare": NO_LIST,
    "sig": f"{NO_SIGNATURE} * opkg_download: Failed to download {OPKG}/Packages.sig, wget returned 8.\n",
}
"""What opkg prints of a server that answered with an error: 8 for 404 as for 503."""
ALL_LASTING = [(INDEX, text) for text in LASTING.values()] + [(OPKG, text) for text in OPKG_LASTING.values()]
ALL_PASSING = [(INDEX, text) for text in PASSING.values()] + [(OPKG, text) for text in OPKG_PASSING.values()]
ALL_UNCLEAR = [(INDEX, text) for text in UNCLEAR.values()] + [(OPKG, text) for text in OPKG_UNCLEAR.values()]


@pytest.mark.parametrize(("url", "stderr"), ALL_LASTING)
@pytest.mark.parametrize("mode", ["append", "replace"])
def test_an_own_repository_that_is_wrong_is_the_users_even_after_a_success(
    url: str, stderr: str, mode: str
) -> None:
    request = a_request(repositories={"mine": url}, repositories_mode=mode)
    failure = diagnosis.blame_repository(request, stderr, status=lambda _: pytest.fail("it is clear"))
    assert failure is not None and (failure.reason, failure.side) == (FailureReason.BAD_REPOSITORY, Side.USER)
    assert url in failure.detail and "mine" in failure.detail and list(failure.problem.repositories) == [url]


@pytest.mark.parametrize(("url", "stderr"), ALL_PASSING)
def test_an_own_repository_that_does_not_answer_is_the_worlds(url: str, stderr: str) -> None:
    request = a_request(repositories={"mine": url})
    failure = diagnosis.blame_repository(request, stderr, status=lambda _: pytest.fail("it is clear"))
    assert failure is not None and failure.side is Side.INFRASTRUCTURE
    assert failure.reason is FailureReason.UPSTREAM_UNREACHABLE and url in failure.detail


@pytest.mark.parametrize(("url", "stderr"), ALL_UNCLEAR)
@pytest.mark.parametrize(
    ("status", "side"),
    [
        *((status, Side.USER) for status in (400, 401, 403, 404, 410, 451)),
        *((status, Side.INFRASTRUCTURE) for status in (0, 200, 304, 408, 425, 429, 500, 502, 503, 504, 599)),
    ],
)
def test_where_the_package_manager_cannot_tell_the_server_is_asked(
    url: str, stderr: str, status: int, side: Side
) -> None:
    asked: list[str] = []

    def ask(file: str) -> int:
        asked.append(file)
        return status

    failure = diagnosis.blame_repository(a_request(repositories={"mine": url}), stderr, status=ask)
    assert failure is not None and failure.side is side
    assert asked in ([INDEX], [f"{OPKG}/Packages.gz"], [f"{OPKG}/Packages.sig"])
    assert url in failure.detail and (f"HTTP {status}" in failure.detail) == (status >= 400)


@pytest.mark.parametrize(("url", "stderr"), ALL_UNCLEAR)
def test_what_nobody_could_ask_is_never_the_users(url: str, stderr: str) -> None:
    failure = diagnosis.blame_repository(a_request(repositories={"mine": url}), stderr)
    assert failure is not None and failure.side is Side.INFRASTRUCTURE and url in failure.detail


def test_only_few_servers_of_a_request_are_asked() -> None:
    repositories = {f"mine{number}": f"{OPKG}/{number}" for number in range(8)}
    stderr = "".join(OPKG_UNCLEAR["gz"].replace(OPKG, url) for url in repositories.values())
    asked: list[str] = []

    def ask(file: str) -> int:
        asked.append(file)
        return 404

    failure = diagnosis.blame_repository(a_request(repositories=repositories), stderr, status=ask)
    assert len(asked) == 3
    assert failure is not None and failure.side is Side.USER


@pytest.mark.parametrize(("url", "stderr"), [*ALL_LASTING, *ALL_PASSING, *ALL_UNCLEAR])
def test_any_other_repository_is_the_worlds_whether_make_succeeds_or_not(url: str, stderr: str) -> None:
    request = a_request(repositories={"mine": "https://feed.example.org/another"}, packages=("vim",))
    stderr = stderr.replace(url, OFFICIAL)
    assert (
        diagnosis.blame_repository(request, stderr, status=lambda _: pytest.fail("it is not asked")) is None
    )
    missing = (
        "ERROR: unable to select packages:\n  vim (no such package):\n    required by: world[vim]\n"
        if url is INDEX
        else " * opkg_install_cmd: Cannot install package vim.\n"
    )
    for failure in (
        diagnosis.blame_feed(request, stderr),
        blamed(stderr + missing + TRACE, Circumstances(request)),
    ):
        assert failure is not None and failure.side is Side.INFRASTRUCTURE
        assert failure.reason is FailureReason.UPSTREAM_UNREACHABLE and OFFICIAL in failure.detail


@pytest.mark.parametrize("url", ["https://downloads.example.org/releases", "https://downloads.example.org"])
def test_a_feed_below_an_own_repository_is_still_the_imagebuilders(url: str) -> None:
    request = a_request(repositories={"mine": url})
    stderr = f"WARNING: updating and opening {OFFICIAL}: HTTP 404: Not Found\n"
    assert diagnosis.blame_repository(request, stderr) is None
    assert diagnosis.blame_feed(request, stderr) is not None


HARMLESS = [
    "",
    "WARNING: opening /builder/packages/packages.adb: No such file or directory\n",
    f"WARNING: updating {OFFICIAL}: temporary error (try again later)\n",
    f"WARNING: updating {INDEX}: remote server returned error (try 'apk update')\n",
    "Collected errors:\n * opkg_conf_parse_file: Duplicate src declaration (openwrt_core "
    "https://downloads.example.org/releases/24.10.5/targets/x86/64/packages). Skipping.\n",
    "Package list missing or not up-to-date, generating it.\n\nBuilding package index...\n"
    f"Downloading {OPKG}/Packages.gz\nUpdated list of available packages in /builder/dl/mine\n"
    f"Downloading {OPKG}/Packages.sig\nSignature check passed.\n",
    "Generate local signing keys...\nread EC key\nwriting EC key\n1+0 records in\n1+0 records out\n",
]


@pytest.mark.parametrize("stderr", HARMLESS)
def test_what_a_sound_build_prints_is_no_failure(stderr: str) -> None:
    """Facts §9: look at stderr after success too. What is no failure there: the first call has no local index
    yet, `updating` alone says that an earlier copy was used."""
    request = a_request(repositories={"mine": INDEX, "other": OPKG})
    assert diagnosis.blame_repository(request, stderr) is None
    assert diagnosis.blame_feed(request, stderr) is None


def test_a_feed_of_the_imagebuilder_itself_is_never_the_users() -> None:
    """Facts §9: a manifest can fail without any sentence: opkg's packages/ held only libc and kernel, and
    usign signs no empty index."""
    stderr = (
        "Downloading file:packages/Packages\nDownloading file:packages/Packages.sig\n"
        "Signature check failed.\n"
        "Remove wrong Signature file.\nCollected errors:\n * opkg_install_cmd: Cannot install package libc.\n"
    )
    assert blamed(stderr, found(packages=("vim",))).side is Side.INFRASTRUCTURE


def test_an_own_repository_whose_package_is_not_there_is_the_worlds() -> None:
    stderr = (
        f" * opkg_download: Failed to download {OPKG}/foo_1.0-r1_x.ipk, wget returned 8.\n"
        " * opkg_install_pkg: Failed to download foo. Perhaps you need to run 'opkg update'?\n"
        " * opkg_install_cmd: Cannot install package foo.\n"
    )
    own = found(packages=("foo",), repositories={"mine": OPKG})
    assert diagnosis.blame_repository(own.request, stderr) is None
    failure = blamed(stderr, own)
    assert failure.side is Side.INFRASTRUCTURE and list(failure.problem.undelivered) == ["foo"]


def test_a_manifest_that_fails_without_a_sentence_is_a_broken_imagebuilder() -> None:
    """Facts §9: a manifest can fail without any sentence; `package_index] Error 1` is never the request's."""
    for stderr in (
        "make[2]: *** [Makefile:203: package_index] Error 1\nmake: *** [Makefile:340: manifest] Error 2\n",
        "",
    ):
        failure = blamed(stderr)
        assert (failure.reason, failure.side) == (FailureReason.SETUP_FAILED, Side.INFRASTRUCTURE)


def test_an_image_step_is_the_users_only_with_a_named_script_or_package() -> None:
    script = "postinst script ./usr/lib/opkg/info/foo.postinst has failed with exit code 3\n"
    failure = blamed(script, found(packages=("foo",)), reason=FailureReason.MAKE_FAILED)
    assert (failure.reason, failure.side) == (FailureReason.MAKE_FAILED, Side.USER)
    assert failure.problem.script == "foo"
    default = blamed(script, found(defaults=("foo",)), reason=FailureReason.MAKE_FAILED)
    assert default.side is Side.INFRASTRUCTURE
    unknown = blamed("make: *** Error 2\n", reason=FailureReason.MAKE_FAILED)
    assert (unknown.reason, unknown.side) == (FailureReason.MAKE_FAILED, Side.INFRASTRUCTURE)
    full = blamed("cp: error writing 'x': No space left on device\n", reason=FailureReason.MAKE_FAILED)
    assert full.side is Side.INFRASTRUCTURE and "no room" in full.detail


_TOOLS = {
    "mksquashfs4 root squashfs.img -nopad -noappend -root-owned -comp xz -small-readers 4 -block-readers 4": (
        "mksquashfs4: -small-readers is an invalid option",
        "mksquashfs4: -block-readers is an invalid option",
    ),
    "make_ext4fs -J -L kernel -l 16777216 -T 1766005000 out.img.gz.kernel boot": (
        "make_ext4fs: invalid option -- 'J'",
    ),
    "grub-bios-setup -m device.map -r hd0,msdos1 -d grub out.img": (
        "grub-bios-setup: invalid option -- 'r'",
        "grub-bios-setup: error: unknown filesystem.",
    ),
}
"""What make prints of a tool as it calls it, and what the tool says where it cannot do that."""


@pytest.mark.parametrize("command", _TOOLS)
def test_the_tools_of_an_image_and_their_flags_are_never_the_users(command: str) -> None:
    """Facts §9: 25.12 calls mksquashfs with `-small-readers`/`-block-readers`, make_ext4fs with `-J`,
    grub-bios-setup with `-r`."""
    chatter = f"+ {command}\n{command}\n32+0 records in\n32+0 records out\n"
    asked = found(packages=("vim",), repositories={"mine": INDEX})
    for stderr in (chatter, *(f"{chatter}{said}\n{TRACE}" for said in _TOOLS[command])):
        assert diagnosis.blame_repository(asked.request, stderr) is None
        assert diagnosis.blame_feed(asked.request, stderr) is None
        assert find_too_big(stderr) is None
        failure = blamed(stderr, asked, reason=FailureReason.MAKE_FAILED)
        assert (failure.reason, failure.side) == (FailureReason.MAKE_FAILED, Side.INFRASTRUCTURE)


@pytest.mark.parametrize(
    ("block", "missing", "conflicts"),
    [
        ("  a-1.0-r1:\n    breaks: b-2.0-r3[!a]\n    satisfies: world[a]\n", (), ("a", "b")),
        ("  a-2.0-r0:\n    breaks: world[a=1.0]\n    satisfies: b-1-r1[a]\n", (), ("a",)),
        ("  a-1.0-r1:\n    masked in: @testing\n    satisfies: b-1.0-r1[a]\n", ("a",), ()),
        ("  a-1.0-r1:\n    error: uninstallable\n    arch: x86_64\n    required by: b-1[a]\n", ("a",), ()),
        ("  a (virtual):\n    provided by: c d\n                 e\n    required by: b-1[a]\n", ("a",), ()),
    ],
)
def test_every_shape_of_apk_names_both_sides(
    block: str, missing: tuple[str, ...], conflicts: tuple[str, ...]
) -> None:
    """Facts §9: conflicts also come as `breaks: x[!y]`."""
    problem = explain_selection(f"ERROR: unable to select packages:\n{block}{TRACE}")
    assert (problem.missing, problem.conflicts) == (missing, conflicts)
    if missing:
        assert problem.needed_by == {"a": ("b",)}
    assert problem.providers == ({"a": ("c", "d", "e")} if "virtual" in block else {})


NO_SUCH = "ERROR: unable to select packages:\n  {0} (no such package):\n    required by: world[{0}]\n"


def test_a_missing_package_is_the_users_only_if_this_server_does_not_list_it() -> None:
    stderr = NO_SUCH.format("vim")
    assert blamed(stderr, found(packages=("vim",), announced={"tmux": "1"})).side is Side.USER
    lag = blamed(stderr, found(packages=("vim",), announced={"vim": "9"}))
    assert lag.side is Side.INFRASTRUCTURE and "between two states" in lag.detail
    own = found(
        packages=("vim",), announced={"vim": "9"}, repositories={"mine": INDEX}, repositories_mode="replace"
    )
    assert blamed(stderr, own).side is Side.USER


def test_what_the_imagebuilder_or_a_rule_asks_for_is_never_the_users() -> None:
    for name in ("libc", "dnsmasq", "of-a-rule"):
        stderr = NO_SUCH.format(name)
        assert blamed(stderr, found(packages=("vim",), defaults=("dnsmasq",))).side is Side.INFRASTRUCTURE
    library = found(packages=("libfoo",))
    assert blamed(NO_SUCH.format("libfoo20240101"), library).side is Side.USER


def test_replace_says_that_only_the_own_repositories_were_used() -> None:
    own = found(
        packages=("vim",), defaults=("dnsmasq",), repositories={"mine": INDEX}, repositories_mode="replace"
    )
    failure = blamed(NO_SUCH.format("dnsmasq"), own)
    assert failure.side is Side.USER and failure.field == "repositories_mode"
    assert "Only the request's own repositories were used" in failure.detail and "append" in failure.detail


@pytest.mark.parametrize("folder", ["24.10-x86-64", "25.12-ath79-generic"])
def test_no_recorded_output_blames_a_repository_or_a_download(folder: str) -> None:
    if not TRANSCRIPTS.exists():
        pytest.skip("no recorded transcripts here")
    paths = list((TRANSCRIPTS / folder).glob("*.stderr"))
    assert len(paths) > 10
    for path in paths:
        stderr = path.read_text()
        assert diagnosis.blame_feed(a_request(), stderr) is None, path.name
        assert blamed(stderr).reason is not FailureReason.UPSTREAM_UNREACHABLE, path.name


def test_a_password_in_an_address_is_not_told() -> None:
    url = "https://user:secret@feed.example.org/x/packages.adb"
    failure = diagnosis.blame_repository(
        a_request(repositories={"mine": url}), f"WARNING: opening {url}: UNTRUSTED signature\n"
    )
    assert failure is not None and "secret" not in f"{failure.detail}{failure.problem}"


def test_a_filesystem_that_was_not_built_is_the_users_unless_upstream_lists_it() -> None:
    request = a_request(filesystem="ext4")
    users = diagnosis.blame_filesystem(Circumstances(request), {"squashfs"})
    assert (users.reason, users.side, users.field) == (FailureReason.NO_IMAGES, Side.USER, "filesystem")
    assert "squashfs" in users.detail and users.problem.filesystems == ("squashfs",)
    listed = Circumstances(request, (), lambda: Announced(filesystems={"ext4", "squashfs"}))
    assert diagnosis.blame_filesystem(listed, {"squashfs"}).side is Side.INFRASTRUCTURE


def test_an_imagebuilder_that_refuses_a_filesystem_says_which_there_are() -> None:
    stdout = 'Filesystem "zfs" is not available!\nAvailable filesystems: squashfs ext4 targz\n'
    assert diagnosis.parse_available_filesystems(stdout) == ("squashfs", "ext4", "targz")
    assert diagnosis.parse_available_filesystems("Available filesystems: squashfs\n") is None


MISSING = " * opkg_install_cmd: Cannot install package vim.\n"


@pytest.mark.parametrize(
    "stderr",
    [
        # the end of a longer output, as reports of it are
        f"Signature check failed.\nRemove wrong Signature file.\nCollected errors:\n{MISSING}",
        f" * opkg_download: Failed to download {OFFICIAL}/Packages.gz, wget returned 4.\n{MISSING}",
        f" * opkg_download: Failed to download {OFFICIAL}/Packages, wget returned 8.\n{MISSING}",
        # what apk says of a package after the index was read
        *(
            f"ERROR: vim-9.1-r1: {why}\n"
            for why in (
                "DNS: transient error (try again later)", "TLS: server certificate not trusted",
                "unexpected end of file", "v2 package integrity error", "BAD signature", "I/O error",
                "could not connect to server (check repositories file)", "operation timed out",
            )
        ),
        # what says nothing about packages
        " * opkg_conf_load: Could not lock /x/tmp/opkg.lock: Resource temporarily unavailable.\n",
        " * pkg_init_from_file: Malformed package file /x/dl/vim_9.ipk.\n",
        "ERROR: Unable to lock database: Resource temporarily unavailable\n",
        "make[2]: *** [Makefile:188: package_install] Segmentation fault\n",
        "make[2]: *** [Makefile:188: package_install] Killed\n",
        "cp: error writing '/x': No space left on device\n",
    ],
)  # fmt: skip
def test_what_the_request_cannot_help_is_never_the_users(stderr: str) -> None:
    failure = diagnosis.blame_make(
        Circumstances(a_request(packages=("vim",))),
        stderr,
        otherwise="Error: Impossible package selection",
        reason=FailureReason.SETUP_FAILED,
    )
    assert failure.side is Side.INFRASTRUCTURE, failure.detail
