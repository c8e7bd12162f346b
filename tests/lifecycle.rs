//! A proxy's life as its operator sees it: settings read again, and its end.

mod support;

use std::time::Duration;

use support::served::Served;
use support::wait_until;

const PATIENCE: Duration = Duration::from_secs(20);

/// Goal: operators change settings of a running proxy, and are told what happened. Method: the file is edited, SIGHUP is
/// sent, and the log and the proxy's behaviour are looked at.
#[test]
fn settings_are_read_again_on_sighup() {
    let served = Served::start_with(1, 1, "[pool]\nsize = 7\n[log]\nfilter = \"info\"\n");
    let file = served.config_file(0);
    let first = std::fs::read_to_string(&file).expect("it was written");
    let hang_up = |text: &str, said: &str| {
        std::fs::write(&file, text).expect("the folder can be written");
        served.signal_proxy(0, "HUP");
        assert!(wait_until(PATIENCE, || served.logged(0).contains(said)), "{said} in\n{}", served.logged(0));
    };

    let changed = first.replace("size = 7", "size = 3").replace("threads = 1", "threads = 2");
    hang_up(&changed, "changed=pool.size need_restart=listen.threads");
    assert_eq!(served.psql("SELECT 1"), "1", "sessions go on");

    hang_up(&changed.replace("size = 3", "size = 0"), "setting \"pool.size\" must be at least 1");
    hang_up("[pool\n", "the old settings stay in force");
    // What can be tried from outside: the login by trust is in force until the file says otherwise.
    assert_eq!(served.psql("SELECT 1"), "1", "a broken file changes nothing");
    hang_up(&changed.replace("trust-loopback", "scram"), "changed=listen.auth");
    let refused = support::psql_error(&served.dsn(0), "SELECT 1");
    assert!(refused.contains("password"), "{refused}");
    // The servers trust everybody, so only the proxy's own rule is in the way.
    hang_up(&changed.replace("[log]", "[log] # again"), "changed=listen.auth need_restart=listen.threads");
    assert_eq!(served.psql("SELECT 1"), "1");
}
