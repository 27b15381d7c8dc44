-- A database of its schema, with rows in every state; see README.md.
BEGIN TRANSACTION;
CREATE TABLE "audit_log" (
    id INTEGER PRIMARY KEY,
    at BIGINT NOT NULL,
    operator TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL DEFAULT ''
);
INSERT INTO "audit_log" VALUES(1,1772366400000000,'a-token','pause','');
CREATE TABLE "build_jobs" (
    -- Never used again, so that a lease or a container's label of a job that is gone fits no other.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    request_hash TEXT NOT NULL REFERENCES build_requests (request_hash),
    client TEXT NOT NULL DEFAULT '',
    -- Who asked first, and the digest of the secret by which that one may cancel.
    caller TEXT NOT NULL DEFAULT '',
    cancel_digest TEXT NOT NULL DEFAULT '',
    joined BOOLEAN NOT NULL DEFAULT 0,
    state TEXT NOT NULL DEFAULT 'pending'
        CHECK (state IN ('pending', 'building', 'completed', 'failed', 'cancelled')),
    stage TEXT,
    -- The order of those that wait: sunk, priority, turn, id.
    deprioritized BOOLEAN NOT NULL DEFAULT 0,
    priority INTEGER NOT NULL DEFAULT 0,
    fair_start BIGINT NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    retries INTEGER NOT NULL DEFAULT 0,
    history TEXT NOT NULL DEFAULT '[]',
    worker TEXT,
    lease_token BIGINT NOT NULL DEFAULT 0,
    lease_until BIGINT,
    not_before BIGINT NOT NULL DEFAULT 0,
    enqueued_at BIGINT NOT NULL,
    -- When somebody last polled it or used its result.
    last_accessed_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT,
    expires_at BIGINT,
    -- How long from a use a result is kept, and until when at most.
    ttl BIGINT NOT NULL DEFAULT 0,
    max_expires_at BIGINT,
    stored_bytes BIGINT NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '', edition INTEGER NOT NULL DEFAULT 0, errata TEXT NOT NULL DEFAULT '', rules TEXT NOT NULL DEFAULT '',
    CHECK ((state = 'building') = (worker IS NOT NULL AND lease_until IS NOT NULL)),
    CHECK ((state = 'building') = (stage IS NOT NULL)),
    CHECK ((state IN ('completed', 'failed', 'cancelled'))
        = (finished_at IS NOT NULL AND expires_at IS NOT NULL)),
    CHECK ((state = 'failed') = (reason <> ''))
);
INSERT INTO "build_jobs" VALUES(1,'ca810fb0e403642a68910b8302ca6dc97608e21c69a8663a803bdebff0e379b2','auc/0.3.2','','',0,'completed',NULL,0,0,0,0,0,'[]',NULL,1,NULL,0,1772186400000000,1772190000000000,1772189700000000,1772190000000000,1772276400000000,0,NULL,10,'',0,'','');
INSERT INTO "build_jobs" VALUES(2,'8cab1f3585f6f612b97122b262ff7707828df6c80d18109fd2043417eea08665','owut/2025.12.1','','',0,'completed',NULL,0,0,0,0,0,'[]',NULL,1,NULL,0,1772294400000000,1772294760000000,1772294460000000,1772294760000000,1772899560000000,0,NULL,10,'',0,'','');
INSERT INTO "build_jobs" VALUES(3,'e7278cb3028385fdee8727f1b79fa316b0a77abae9ab0a9fa279e3f7be407dd0','luci/24.10','','',0,'completed',NULL,0,0,0,0,0,'[]',NULL,1,NULL,0,1772365200000000,1772365560000000,1772365260000000,1772365560000000,1772367360000000,0,NULL,10,'',0,'','');
INSERT INTO "build_jobs" VALUES(4,'347f832b8c1be0d559b56331446f77a4bf3fdf0426e3955e61306f5774dc5c5c','unknown/0','','',0,'failed',NULL,0,0,0,0,0,'[]',NULL,1,NULL,0,1772364000000000,1772364600000000,1772364300000000,1772364600000000,1772368200000000,0,NULL,0,'impossible_selection',0,'','');
INSERT INTO "build_jobs" VALUES(5,'8ed03aa10eb27b6d56a6debf84565110fb72643c14e574c44361db4806c9611d','owut/2025.12.1','','',0,'failed',NULL,0,0,0,0,0,'[]',NULL,1,NULL,0,1772364300000000,1772364660000000,1772364360000000,1772364660000000,1772366220000000,0,NULL,0,'upstream_unreachable',0,'','');
INSERT INTO "build_jobs" VALUES(6,'3d649cac2d982b672cf032e0cf3a5fde6b1bb413b97b19d105d3be1b8a433181','firmware-selector/5','','',0,'failed',NULL,0,0,0,3,0,'[]',NULL,3,NULL,0,1772364360000000,1772364780000000,1772364660000000,1772364780000000,1772368380000000,0,NULL,0,'gave_up',0,'','');
INSERT INTO "build_jobs" VALUES(7,'29928fc41221d82021f33eba65a74ef816041e6240d5494095f012ad42874733','owut/2025.12.1','','',0,'building','building_image',0,0,0,0,0,'[]','asu/1',1,1772367240000000,0,1772365800000000,1772366400000000,1772366040000000,NULL,NULL,0,NULL,0,'',0,'','');
INSERT INTO "build_jobs" VALUES(8,'8c1f215f9dc13cc67affcf08f820f7fb207214c7ea569de783881870b670d995','owut/2025.12.1','','',0,'building','init',0,0,0,0,0,'[]','asu/2',1,1772367540000000,0,1772365860000000,1772366400000000,1772366340000000,NULL,NULL,0,NULL,0,'',0,'','');
INSERT INTO "build_jobs" VALUES(9,'7d5db0f95853e80bf3e6803894e78f2b21a3fe8d5bcdee336ad124598bcc0ecc','owut/2025.12.1','','',0,'building','validate_manifest',0,0,0,0,0,'[]','old-host/1',1,1772366040000000,0,1772365920000000,1772366400000000,1772365920000000,NULL,NULL,0,NULL,0,'',0,'','');
INSERT INTO "build_jobs" VALUES(10,'6521da571b5cadafb470f74753a92d0103d374ff22c937d68fc1a78ace60c0c4','auc/0.3.2','','',0,'pending',NULL,0,0,0,0,1,'[]',NULL,1,NULL,1772366460000000,1772366100000000,1772366400000000,1772366100000000,NULL,NULL,0,NULL,0,'',0,'','');
INSERT INTO "build_jobs" VALUES(11,'ca810fb0e403642a68910b8302ca6dc97608e21c69a8663a803bdebff0e379b2','auc/0.3.2','','',0,'pending',NULL,0,0,0,0,0,'[]',NULL,0,NULL,0,1772366160000000,1772366400000000,NULL,NULL,NULL,0,NULL,0,'',0,'','');
INSERT INTO "build_jobs" VALUES(12,'8ed03aa10eb27b6d56a6debf84565110fb72643c14e574c44361db4806c9611d','owut/2025.12.1','','',0,'pending',NULL,0,0,0,0,0,'[]',NULL,0,NULL,0,1772366220000000,1772366400000000,NULL,NULL,NULL,0,NULL,0,'',0,'','');
INSERT INTO "build_jobs" VALUES(13,'271bc1a5f7afa29a45c34b47c113342e0304a43dfeccfb4b6f577b0ecf5d1458','','','',0,'pending',NULL,0,0,0,0,0,'[]',NULL,0,NULL,0,1772366280123457,1772366400000000,NULL,NULL,NULL,0,NULL,0,'',0,'','');
INSERT INTO "build_jobs" VALUES(14,'f5027aadb4987b5f02085d7897f41c759c2083b9a0ac3456eb60738a6217bec2','owut/2026.1','192.0.2.1','2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b',0,'completed',NULL,0,1,0,0,0,'[]',NULL,1,NULL,0,1772366400000000,1772366440000000,1772366400000000,1772366440000000,1772370040000000,3600000000,1772373640000000,0,'',0,'','');
INSERT INTO "build_jobs" VALUES(15,'f158d65425b5ef4de6c68429e6d610a920ca55309dd0f04bdca4594b004dfa6c','owut/2026.1','a-token','',0,'cancelled',NULL,0,-1,0,0,0,'[]',NULL,0,NULL,0,1772366400000000,1772366400000000,NULL,1772366460000000,1772370060000000,0,NULL,0,'',0,'','');
INSERT INTO "build_jobs" VALUES(16,'050098f5b7b9ddf2cce0ac0cc3b723257976b855b044ba8bc7a931edd313cd23','owut/2026.1','192.0.2.1','',0,'cancelled',NULL,0,0,0,0,0,'[]',NULL,0,NULL,0,1772366400000000,1772366400000000,NULL,1772366400000000,1772452800000000,0,NULL,0,'',0,'','');
INSERT INTO "build_jobs" VALUES(17,'79ba02f383d833f7e7e41b27119bf7ba01bcb9afeac514fa5c12825762220e8d','owut/2026.1','192.0.2.1','',0,'cancelled',NULL,0,0,0,0,0,'[]',NULL,0,NULL,0,1772366400000000,1772366400000000,NULL,1772366400000000,1772370000000000,0,NULL,0,'',0,'','');
INSERT INTO "build_jobs" VALUES(18,'bac0314a11fcd762e315e6f3cd623a1ada738e7c40f6a8c9bc31dacb7d6a07e6','owut/2026.1','192.0.2.1','',0,'cancelled',NULL,0,0,0,0,0,'[]',NULL,0,NULL,0,1772366400000000,1772366400000000,NULL,1772366400000000,1772370000000000,0,NULL,0,'',1,'','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
CREATE TABLE build_log (
    job_id INTEGER NOT NULL REFERENCES build_jobs (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL CHECK (seq > 0),
    at BIGINT NOT NULL,
    stage TEXT NOT NULL,
    text TEXT NOT NULL,
    -- Of the job's text up to here; more than the limit in the line that says that the rest is left out.
    bytes BIGINT NOT NULL,
    PRIMARY KEY (job_id, seq)
) WITHOUT ROWID;
INSERT INTO "build_log" VALUES(7,1,1772366400000000,'validate_revision','Current Target: "pico/nine"',27);
INSERT INTO "build_log" VALUES(7,2,1772366401000000,'validate_manifest','vim - 9.1-r1',39);
INSERT INTO "build_log" VALUES(7,3,1772366402000000,'building_image','Building images...',57);
CREATE TABLE build_requests (
    request_hash TEXT NOT NULL PRIMARY KEY CHECK (length(request_hash) = 64),
    request TEXT NOT NULL,
    first_requested_at BIGINT NOT NULL
, scrubbed BOOLEAN NOT NULL DEFAULT 0, sealed BOOLEAN NOT NULL DEFAULT FALSE, edition INTEGER NOT NULL DEFAULT 0, errata TEXT NOT NULL DEFAULT '', rules TEXT NOT NULL DEFAULT '');
INSERT INTO "build_requests" VALUES('ca810fb0e403642a68910b8302ca6dc97608e21c69a8663a803bdebff0e379b2','{"version":"24.10.5","target":"pico/nine","profile":"acme_widget-5","packages":["luci","vim"],"packages_versions":{},"version_code":"","diff_packages":false,"defaults":"","rootfs_size_mb":null,"filesystem":null,"repositories":{},"repositories_mode":"replace","repository_keys":[]}',1772186400000000,0,0,0,'','');
INSERT INTO "build_requests" VALUES('8cab1f3585f6f612b97122b262ff7707828df6c80d18109fd2043417eea08665','{"version":"24.10.5","target":"pico/nine","profile":"acme_widget-5","packages":[],"packages_versions":{"luci":"26.012.1","vim":"9.1-r1"},"version_code":"r28959-29397011cc","diff_packages":true,"defaults":"","rootfs_size_mb":null,"filesystem":null,"repositories":{},"repositories_mode":"replace","repository_keys":[]}',1772294400000000,0,0,0,'','');
INSERT INTO "build_requests" VALUES('e7278cb3028385fdee8727f1b79fa316b0a77abae9ab0a9fa279e3f7be407dd0','{"version":"24.10.5","target":"pico/nine","profile":"acme_widget-5","packages":[],"packages_versions":{},"version_code":"","diff_packages":false,"defaults":"uci set wireless.@wifi-iface[0].key=''it''''s; a \"secret\"''\nuci commit\n","rootfs_size_mb":300,"filesystem":"ext4","repositories":{},"repositories_mode":"replace","repository_keys":[]}',1772365200000000,0,0,0,'','');
INSERT INTO "build_requests" VALUES('347f832b8c1be0d559b56331446f77a4bf3fdf0426e3955e61306f5774dc5c5c','{"version":"24.10.5","target":"pico/nine","profile":"acme_widget-5","packages":["nosuch"],"packages_versions":{},"version_code":"","diff_packages":false,"defaults":"","rootfs_size_mb":null,"filesystem":null,"repositories":{},"repositories_mode":"replace","repository_keys":[]}',1772364000000000,0,0,0,'','');
INSERT INTO "build_requests" VALUES('8ed03aa10eb27b6d56a6debf84565110fb72643c14e574c44361db4806c9611d','{"version":"SNAPSHOT","target":"pico/nine","profile":"acme_widget-5","packages":[],"packages_versions":{},"version_code":"","diff_packages":false,"defaults":"","rootfs_size_mb":null,"filesystem":null,"repositories":{},"repositories_mode":"replace","repository_keys":[]}',1772364300000000,0,0,0,'','');
INSERT INTO "build_requests" VALUES('3d649cac2d982b672cf032e0cf3a5fde6b1bb413b97b19d105d3be1b8a433181','{"version":"24.10.5","target":"pico/nine","profile":"other_widget","packages":[],"packages_versions":{},"version_code":"","diff_packages":false,"defaults":"","rootfs_size_mb":null,"filesystem":null,"repositories":{"custom":"https://feeds.example.org/packages"},"repositories_mode":"append","repository_keys":["untrusted comment: key\nRWQ=\n"]}',1772364360000000,0,0,0,'','');
INSERT INTO "build_requests" VALUES('29928fc41221d82021f33eba65a74ef816041e6240d5494095f012ad42874733','{"version":"24.10.5","target":"pico/nine","profile":"acme_widget-5","packages":["held0"],"packages_versions":{},"version_code":"","diff_packages":false,"defaults":"","rootfs_size_mb":null,"filesystem":null,"repositories":{},"repositories_mode":"replace","repository_keys":[]}',1772365800000000,0,0,0,'','');
INSERT INTO "build_requests" VALUES('8c1f215f9dc13cc67affcf08f820f7fb207214c7ea569de783881870b670d995','{"version":"24.10.5","target":"pico/nine","profile":"acme_widget-5","packages":["held1"],"packages_versions":{},"version_code":"","diff_packages":false,"defaults":"","rootfs_size_mb":null,"filesystem":null,"repositories":{},"repositories_mode":"replace","repository_keys":[]}',1772365860000000,0,0,0,'','');
INSERT INTO "build_requests" VALUES('7d5db0f95853e80bf3e6803894e78f2b21a3fe8d5bcdee336ad124598bcc0ecc','{"version":"24.10.5","target":"pico/nine","profile":"acme_widget-5","packages":["held2"],"packages_versions":{},"version_code":"","diff_packages":false,"defaults":"","rootfs_size_mb":null,"filesystem":null,"repositories":{},"repositories_mode":"replace","repository_keys":[]}',1772365920000000,0,0,0,'','');
INSERT INTO "build_requests" VALUES('6521da571b5cadafb470f74753a92d0103d374ff22c937d68fc1a78ace60c0c4','{"version":"24.10.5","target":"pico/nine","profile":"acme_widget-5","packages":["retried"],"packages_versions":{},"version_code":"","diff_packages":false,"defaults":"","rootfs_size_mb":null,"filesystem":null,"repositories":{},"repositories_mode":"replace","repository_keys":[]}',1772366100000000,0,0,0,'','');
INSERT INTO "build_requests" VALUES('271bc1a5f7afa29a45c34b47c113342e0304a43dfeccfb4b6f577b0ecf5d1458','{"version":"24.10.5","target":"pico/nine","profile":"acme_widget-5","packages":["plain"],"packages_versions":{},"version_code":"","diff_packages":false,"defaults":"","rootfs_size_mb":null,"filesystem":null,"repositories":{},"repositories_mode":"replace","repository_keys":[]}',1772366280123457,0,0,0,'','');
INSERT INTO "build_requests" VALUES('f5027aadb4987b5f02085d7897f41c759c2083b9a0ac3456eb60738a6217bec2','{"version":"24.10.5","target":"pico/nine","profile":"acme_widget-5","packages":["tmux"],"packages_versions":{},"version_code":"","diff_packages":false,"defaults":"","rootfs_size_mb":null,"filesystem":null,"repositories":{},"repositories_mode":"replace","repository_keys":[]}',1772366400000000,0,0,0,'','');
INSERT INTO "build_requests" VALUES('f158d65425b5ef4de6c68429e6d610a920ca55309dd0f04bdca4594b004dfa6c','{"version":"24.10.5","target":"pico/nine","profile":"acme_widget-5","packages":["screen"],"packages_versions":{},"version_code":"","diff_packages":false,"defaults":"","rootfs_size_mb":null,"filesystem":null,"repositories":{},"repositories_mode":"replace","repository_keys":[]}',1772366400000000,0,0,0,'','');
INSERT INTO "build_requests" VALUES('050098f5b7b9ddf2cce0ac0cc3b723257976b855b044ba8bc7a931edd313cd23','{"version":"24.10.5","target":"pico/nine","profile":"acme_widget-5","packages":["mosquitto-ssl"],"packages_versions":{},"version_code":"","diff_packages":false,"defaults":"","rootfs_size_mb":null,"filesystem":null,"repositories":{},"repositories_mode":"replace","repository_keys":[]}',1772366400000000,0,0,0,'','');
INSERT INTO "build_requests" VALUES('79ba02f383d833f7e7e41b27119bf7ba01bcb9afeac514fa5c12825762220e8d','{"version":"24.10.5","target":"pico/nine","profile":"acme_widget-5","packages":["sealed"],"packages_versions":{},"version_code":"","diff_packages":false,"defaults":"sha256:48cfe77fccb90571ad4c7592d41320b3e7878c5441641870f5a198455c8f5936","rootfs_size_mb":null,"filesystem":null,"repositories":{},"repositories_mode":"replace","repository_keys":[],"on_missing":"fail","as_of":"","dropped":{}}',1772366400000000,0,1,0,'','');
INSERT INTO "build_requests" VALUES('bac0314a11fcd762e315e6f3cd623a1ada738e7c40f6a8c9bc31dacb7d6a07e6','{"version":"24.10.5","target":"pico/nine","profile":"acme_widget-5","packages":["terms"],"packages_versions":{},"version_code":"","diff_packages":false,"defaults":"","rootfs_size_mb":null,"filesystem":null,"repositories":{},"repositories_mode":"replace","repository_keys":[],"on_missing":"fail","as_of":"","dropped":{}}',1772366400000000,0,0,1,'','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
CREATE TABLE build_results (
    job_id INTEGER NOT NULL PRIMARY KEY REFERENCES build_jobs (id) ON DELETE CASCADE,
    completed BOOLEAN NOT NULL,
    document TEXT NOT NULL
);
INSERT INTO "build_results" VALUES(1,1,'{"description":{"version_number":"24.10.5","target":"pico/nine"},"images":[{"name":"openwrt-sysupgrade.bin","type":"sysupgrade","sha256":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","sha256_unsigned":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","size":10,"filesystem":"squashfs"}],"manifest":{"vim":"9.1-r1"},"build_cmd":["make","image","PROFILE=acme_widget-5"],"packages":["vim"],"stdout":"out","stderr":"err","warnings":[],"package_changes":{"applied":[],"warnings":[],"missing_defaults":[]}}');
INSERT INTO "build_results" VALUES(2,1,'{"description":{"version_number":"24.10.5","target":"pico/nine"},"images":[{"name":"openwrt-sysupgrade.bin","type":"sysupgrade","sha256":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","sha256_unsigned":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","size":10,"filesystem":"squashfs"}],"manifest":{"luci":"26.012.1","vim":"9.1-r1"},"build_cmd":["make","image","PROFILE=acme_widget-5"],"packages":["luci","vim"],"stdout":"out","stderr":"err","warnings":[],"package_changes":{"applied":[],"warnings":[],"missing_defaults":[]}}');
INSERT INTO "build_results" VALUES(3,1,'{"description":{"version_number":"24.10.5","target":"pico/nine"},"images":[{"name":"openwrt-sysupgrade.bin","type":"sysupgrade","sha256":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","sha256_unsigned":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","size":10,"filesystem":"squashfs"}],"manifest":{"vim":"9.1-r1"},"build_cmd":["make","image","PROFILE=acme_widget-5"],"packages":["vim"],"stdout":"out","stderr":"err","warnings":["Größer als üblich"],"package_changes":{"applied":[],"warnings":[],"missing_defaults":[]}}');
INSERT INTO "build_results" VALUES(4,0,'{"reason":"impossible_selection","detail":"Error: Impossible package selection: missing (nosuch)","stdout":"out","stderr":"err","build_cmd":[],"attempts":[]}');
INSERT INTO "build_results" VALUES(5,0,'{"reason":"upstream_unreachable","detail":"Error: The download server does not answer. Try again later.","stdout":"","stderr":"curl: (7)","build_cmd":["make","manifest"],"attempts":[]}');
INSERT INTO "build_results" VALUES(6,0,'{"reason":"gave_up","detail":"Error: Gave up: the build was cut off 3 times without an end. This is the server''s fault; try again later or tell its operator.","stdout":"","stderr":"","build_cmd":[],"attempts":[]}');
INSERT INTO "build_results" VALUES(14,1,'{"description":{"version_number":"24.10.5","target":"pico/nine"},"images":[{"name":"openwrt-sysupgrade.bin","type":"sysupgrade","sha256":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","sha256_unsigned":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","size":10,"filesystem":"squashfs"}],"manifest":{"vim":"9.1-r1"},"build_cmd":["make","image","PROFILE=acme_widget-5"],"packages":["vim"],"stdout":"out","stderr":"err","warnings":[],"package_changes":{"applied":[],"warnings":[],"missing_defaults":[]},"stored_bytes":0}');
CREATE TABLE build_secrets (
    request_hash TEXT NOT NULL PRIMARY KEY REFERENCES build_requests (request_hash) ON DELETE CASCADE,
    secrets_key TEXT NOT NULL,
    wrapped BLOB NOT NULL,
    sealed BLOB NOT NULL
);
INSERT INTO "build_secrets" VALUES('79ba02f383d833f7e7e41b27119bf7ba01bcb9afeac514fa5c12825762220e8d','bb53f3b28dff13af',X'E11C3A3B7E5627784F5B712FED98019437C4138B3441793D5DE4E5DA4C1D72AFB26BBD41AEC771DE36FE1DFBE2D2835A7BB6CC7C68B9269417253B48',X'B445916446811C00F24423F275A4B8618BCF3B8F0DB6DED9A55CC6E6B985D143756B4874EFCAAFFEBCB6A105525463386F8E6721379A892D7A216CA0BDC0717C25B3D92F1AE8690342');
CREATE TABLE build_stats (
    id INTEGER PRIMARY KEY,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    version TEXT NOT NULL,
    target TEXT NOT NULL,
    profile TEXT NOT NULL,
    diff_packages BOOLEAN NOT NULL,
    client TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT ''
, side TEXT NOT NULL DEFAULT '');
INSERT INTO "build_stats" VALUES(1,1772362800000000,'request','24.10.5','pico/nine','acme_widget-5',1,'owut/2025.12.1','','');
INSERT INTO "build_stats" VALUES(2,1772362800000000,'completed','24.10.5','pico/nine','acme_widget-5',0,'owut/2025.12.1','','');
INSERT INTO "build_stats" VALUES(3,1772362800000000,'failed','24.10.5','pico/nine','acme_widget-5',0,'owut/2025.12.1','impossible_selection','');
INSERT INTO "build_stats" VALUES(4,1772362800000000,'cache_hit','24.10.5','pico/nine','acme_widget-5',0,'owut/2025.12.1','','');
INSERT INTO "build_stats" VALUES(5,1772366400000000,'cancelled','24.10.5','pico/nine','acme_widget-5',0,'owut/1','','');
INSERT INTO "build_stats" VALUES(6,1772366400000000,'request','24.10.5','pico/nine','acme_widget-5',0,'owut/1','','');
INSERT INTO "build_stats" VALUES(7,1772366400000000,'request','24.10.5','pico/nine','acme_widget-5',0,'owut/2026.1','','');
INSERT INTO "build_stats" VALUES(8,1772366400000000,'completed','24.10.5','pico/nine','acme_widget-5',0,'owut/2026.1','','');
INSERT INTO "build_stats" VALUES(9,1772366400000000,'failed','24.10.5','pico/nine','acme_widget-5',0,'owut/2026.1','too_big','');
INSERT INTO "build_stats" VALUES(10,1772366400000000,'failed','25.12.0','pico/nine','acme_widget-5',0,'','impossible_selection','');
INSERT INTO "build_stats" VALUES(11,1772362800000000,'failed','24.10.5','pico/nine','acme_widget-5',1,'owut/2025.12.1','missing_package','user');
CREATE TABLE daily_durations (
    day INTEGER NOT NULL,
    stage TEXT NOT NULL,
    up_to BIGINT NOT NULL,
    builds BIGINT NOT NULL,
    total BIGINT NOT NULL,
    longest BIGINT NOT NULL,
    PRIMARY KEY (day, stage, up_to)
) WITHOUT ROWID;
INSERT INTO "daily_durations" VALUES(20513,'building_image',45000000,1,42000000,42000000);
CREATE TABLE "daily_events" (
    kind TEXT NOT NULL,
    day INTEGER NOT NULL,
    version TEXT NOT NULL,
    reason TEXT NOT NULL,
    side TEXT NOT NULL,
    diff_packages BOOLEAN NOT NULL,
    events BIGINT NOT NULL,
    PRIMARY KEY (kind, day, version, reason, side, diff_packages)
) WITHOUT ROWID;
INSERT INTO "daily_events" VALUES('cache_hit',20513,'24.10.5','','',0,1);
INSERT INTO "daily_events" VALUES('cancelled',20513,'24.10.5','','',0,1);
INSERT INTO "daily_events" VALUES('completed',20513,'24.10.5','','',0,2);
INSERT INTO "daily_events" VALUES('failed',20000,'25.12.0','missing_package','user',0,1);
INSERT INTO "daily_events" VALUES('failed',20513,'24.10.5','impossible_selection','',0,1);
INSERT INTO "daily_events" VALUES('failed',20513,'24.10.5','too_big','',0,1);
INSERT INTO "daily_events" VALUES('failed',20513,'25.12.0','impossible_selection','',0,1);
INSERT INTO "daily_events" VALUES('request',20513,'24.10.5','','',0,2);
INSERT INTO "daily_events" VALUES('request',20513,'24.10.5','','',1,1);
CREATE TABLE daily_packages (
    version TEXT NOT NULL,
    day INTEGER NOT NULL,
    name TEXT NOT NULL,
    builds BIGINT NOT NULL,
    PRIMARY KEY (version, day, name)
) WITHOUT ROWID;
INSERT INTO "daily_packages" VALUES('',20511,'luci',1);
INSERT INTO "daily_packages" VALUES('',20511,'vim',1);
INSERT INTO "daily_packages" VALUES('',20512,'luci',1);
INSERT INTO "daily_packages" VALUES('',20512,'vim',1);
INSERT INTO "daily_packages" VALUES('',20513,'held0',1);
INSERT INTO "daily_packages" VALUES('',20513,'held1',1);
INSERT INTO "daily_packages" VALUES('',20513,'held2',1);
INSERT INTO "daily_packages" VALUES('',20513,'nosuch',1);
INSERT INTO "daily_packages" VALUES('',20513,'plain',1);
INSERT INTO "daily_packages" VALUES('',20513,'retried',1);
INSERT INTO "daily_packages" VALUES('',20513,'screen',1);
INSERT INTO "daily_packages" VALUES('',20513,'tmux',1);
INSERT INTO "daily_packages" VALUES('',20513,'vim',1);
INSERT INTO "daily_packages" VALUES('24.10.5',20511,'luci',1);
INSERT INTO "daily_packages" VALUES('24.10.5',20511,'vim',1);
INSERT INTO "daily_packages" VALUES('24.10.5',20512,'luci',1);
INSERT INTO "daily_packages" VALUES('24.10.5',20512,'vim',1);
INSERT INTO "daily_packages" VALUES('24.10.5',20513,'held0',1);
INSERT INTO "daily_packages" VALUES('24.10.5',20513,'held1',1);
INSERT INTO "daily_packages" VALUES('24.10.5',20513,'held2',1);
INSERT INTO "daily_packages" VALUES('24.10.5',20513,'nosuch',1);
INSERT INTO "daily_packages" VALUES('24.10.5',20513,'plain',1);
INSERT INTO "daily_packages" VALUES('24.10.5',20513,'retried',1);
INSERT INTO "daily_packages" VALUES('24.10.5',20513,'screen',1);
INSERT INTO "daily_packages" VALUES('24.10.5',20513,'tmux',1);
INSERT INTO "daily_packages" VALUES('24.10.5',20513,'vim',1);
CREATE TABLE "fair_queue" (
    priority INTEGER NOT NULL PRIMARY KEY,
    reached BIGINT NOT NULL
);
INSERT INTO "fair_queue" VALUES(1,0);
CREATE TABLE imagebuilders (
    release_path TEXT NOT NULL,
    target TEXT NOT NULL,
    identity TEXT NOT NULL,
    revision TEXT NOT NULL,
    manager TEXT NOT NULL,
    package_index BLOB NOT NULL,  -- zlib
    repositories TEXT NOT NULL,   -- JSON, a list of addresses
    folders BLOB NOT NULL,        -- zlib, MessagePack, folder to its index
    pins TEXT NOT NULL,           -- JSON, name to version
    learnt_at BIGINT NOT NULL,
    PRIMARY KEY (release_path, target)
);
INSERT INTO "imagebuilders" VALUES('releases/24.10.5','pico/nine','sha256:ab','r1-abc','opkg',X'789C0B484CCE4E4C4FB55228CBCCE50200206F045D','["https://downloads.example/base"]',X'789C6B000000810081','{"vim":"9.1"}',1767225600000000);
CREATE TABLE installation (
    id TEXT NOT NULL PRIMARY KEY
);
INSERT INTO "installation" VALUES('0123456789abcdef0123456789abcdef');
CREATE TABLE nodes (
    name TEXT NOT NULL PRIMARY KEY,
    machine TEXT NOT NULL,
    life TEXT NOT NULL,
    facts TEXT NOT NULL,
    drained BOOLEAN NOT NULL DEFAULT FALSE,
    seen_at BIGINT NOT NULL
);
INSERT INTO "nodes" VALUES('builder-1','0123456789abcdef0123456789abcdef','0123456789abcdef','{"version":"1.0","answers":false,"builds":true,"concurrent":4,"running":1,"rules":"ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff","room":7000000000,"hindrance":""}',1,1772366400000000);
CREATE TABLE preflight_targets (
    release_path TEXT NOT NULL,
    target TEXT NOT NULL,
    mode TEXT NOT NULL CHECK (mode IN ('enforce', 'advise')),
    since BIGINT NOT NULL,
    sampled BIGINT NOT NULL DEFAULT 0,
    disagreements BIGINT NOT NULL DEFAULT 0,
    last_disagreement TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (release_path, target)
);
INSERT INTO "preflight_targets" VALUES('releases/24.10.5','pico/nine','advise',1767225600000000,3,1,'it was built');
CREATE TABLE queue_clock (
    seen_at BIGINT NOT NULL
, unseen BIGINT NOT NULL DEFAULT 0);
INSERT INTO "queue_clock" VALUES(1772366041000000,0);
CREATE TABLE queue_moves (
    seq INTEGER PRIMARY KEY,
    job_id BIGINT NOT NULL
);
INSERT INTO "queue_moves" VALUES(1,16);
INSERT INTO "queue_moves" VALUES(2,16);
INSERT INTO "queue_moves" VALUES(3,17);
INSERT INTO "queue_moves" VALUES(4,17);
INSERT INTO "queue_moves" VALUES(5,18);
INSERT INTO "queue_moves" VALUES(6,18);
CREATE TABLE stored_images (
    bytes BIGINT NOT NULL
);
INSERT INTO "stored_images" VALUES(30);
CREATE TABLE upstream_documents (
    path TEXT NOT NULL PRIMARY KEY,
    etag TEXT NOT NULL DEFAULT '',
    fetched_at BIGINT NOT NULL,
    body BLOB
);
INSERT INTO "upstream_documents" VALUES('https://downloads.example.org/.versions.json','"5e-1"',1772366400000000,X'7B22737461626C655F76657273696F6E223A202232342E31302E35227D00FF');
INSERT INTO "upstream_documents" VALUES('https://downloads.example.org/gone','',1772366400000000,NULL);
CREATE TABLE worker_pause (
    since BIGINT NOT NULL,
    operator TEXT NOT NULL
);
INSERT INTO "worker_pause" VALUES(1772366400000000,'a-token');
CREATE INDEX build_stats_kind ON build_stats (kind, at);
CREATE UNIQUE INDEX build_jobs_live ON build_jobs (request_hash) WHERE state IN ('pending', 'building');
CREATE INDEX build_jobs_hash ON build_jobs (request_hash, id);
CREATE INDEX build_jobs_lease ON build_jobs (lease_until) WHERE state = 'building';
CREATE INDEX build_jobs_expiry ON build_jobs (expires_at) WHERE state IN ('completed', 'failed', 'cancelled');
CREATE INDEX build_jobs_finished ON build_jobs (finished_at) WHERE state = 'completed';
CREATE INDEX build_jobs_used ON build_jobs (last_accessed_at) WHERE state = 'completed';
CREATE INDEX build_jobs_caller ON build_jobs (caller, priority, fair_start) WHERE state IN ('pending', 'building');
CREATE TRIGGER build_jobs_completed AFTER UPDATE OF state ON build_jobs
  WHEN NEW.state = 'completed' AND OLD.state <> 'completed'
BEGIN
    UPDATE stored_images SET bytes = bytes + NEW.stored_bytes - coalesce(
        (SELECT stored_bytes FROM build_jobs
          WHERE request_hash = NEW.request_hash AND state = 'completed' AND id <> NEW.id
          ORDER BY id DESC LIMIT 1), 0);
END;
CREATE TRIGGER build_jobs_forgotten AFTER DELETE ON build_jobs
  WHEN OLD.state = 'completed' AND NOT EXISTS (
       SELECT 1 FROM build_jobs
        WHERE request_hash = OLD.request_hash AND state = 'completed' AND id > OLD.id)
BEGIN
    UPDATE stored_images SET bytes = bytes - OLD.stored_bytes + coalesce(
        (SELECT stored_bytes FROM build_jobs
          WHERE request_hash = OLD.request_hash AND state = 'completed'
          ORDER BY id DESC LIMIT 1), 0);
END;
CREATE INDEX build_jobs_order ON build_jobs (deprioritized, priority DESC, fair_start, id, state)
 WHERE state = 'pending';
CREATE TRIGGER build_jobs_came AFTER INSERT ON build_jobs
  WHEN NEW.state = 'pending'
BEGIN
    INSERT INTO queue_moves (job_id) VALUES (NEW.id);
END;
CREATE TRIGGER build_jobs_moved AFTER UPDATE OF state, deprioritized, priority, fair_start ON build_jobs
  WHEN 'pending' IN (OLD.state, NEW.state)
   AND (OLD.state, OLD.deprioritized, OLD.priority, OLD.fair_start)
    <> (NEW.state, NEW.deprioritized, NEW.priority, NEW.fair_start)
BEGIN
    INSERT INTO queue_moves (job_id) VALUES (NEW.id);
END;
CREATE TRIGGER build_jobs_left AFTER DELETE ON build_jobs
  WHEN OLD.state = 'pending'
BEGIN
    INSERT INTO queue_moves (job_id) VALUES (OLD.id);
END;
CREATE INDEX build_requests_dropped ON build_requests (request_hash)
 WHERE instr(request, '"dropped":{"') > 0;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('build_jobs',18);
COMMIT;
PRAGMA user_version = 14;