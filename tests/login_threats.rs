//! What is thrown at a proxy before anybody has logged in: lies about lengths, floods, injections in the clear, wrong
//! identities. And what may log in: by TLS, certificates, SCRAM with and without channel binding, MD5, rules.

#[path = "protocol/wire.rs"]
#[allow(dead_code, reason = "other test programs use the rest of it")]
mod wire;

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use support::serve::{Authority, Serve, psql_says};
use support::{Cluster, psql_error};
use wire::startup_packet;

/// One cluster for all stories: servers that trust us, and proxies with rules of their own in front.
#[test]
fn nobody_gets_in_who_should_not_and_everybody_who_should() {
    let cluster = Cluster::start(1);
    cluster.psql("CREATE ROLE app LOGIN PASSWORD 'correct horse'");
    cluster.psql("CREATE ROLE late LOGIN PASSWORD 'late' VALID UNTIL '2001-01-01'");
    cluster.psql("CREATE ROLE barred NOLOGIN PASSWORD 'barred'");
    cluster.psql("CREATE ROLE single LOGIN PASSWORD 'single' CONNECTION LIMIT 1");
    cluster.psql("SET password_encryption = md5; CREATE ROLE old LOGIN PASSWORD 'old'");
    cluster.psql(
        "CREATE TABLE t (id int PRIMARY KEY); SELECT create_distributed_table('t', 'id'); GRANT ALL ON t TO app, old",
    );

    let mut plain = Serve::start(&cluster, cluster.port() + 12, "auth = \"scram\"\nlogin_timeout = \"3s\"", "");
    lengths_that_lie_are_refused_at_once(plain.port);
    encryption_is_asked_for_once(plain.port);
    memory_is_not_taken_before_a_login(&plain);
    a_login_has_an_end(plain.port);
    messages_of_a_login_come_in_their_order(plain.port);
    options_are_bounded(plain.port);
    unknown_and_wrong_look_alike(&cluster, plain.port);
    roles_are_what_the_coordinator_says(plain.port, &cluster);
    assert!(plain.is_running(), "nothing of this ends the proxy");
    drop(plain);

    let authority = Authority::new();
    for name in ["server", "app", "nobody"] {
        authority.sign(name);
    }
    for (name, subject) in ODD_SUBJECTS {
        authority.sign_as(name, subject);
    }
    let tls = |mode: &str| {
        let (certificate, key, ca) =
            (authority.file("server.crt"), authority.file("server.key"), authority.file("ca.crt"));
        format!("[tls]\nmode = \"{mode}\"\ncertificate = \"{certificate}\"\nkey = \"{key}\"\nclient_ca = \"{ca}\"")
    };
    let rules = "login_timeout = \"3s\"\nhba = [\"hostssl all app 127.0.0.0/8 scram-sha-256\", \"hostssl all postgres 127.0.0.0/8 cert\", \
                 \"host all late all reject\", \"host all old all md5\"]";
    let sections = format!("{}\n[admin]\nusers = [\"app\"]", tls("allow"));
    let mut encrypted = Serve::start(&cluster, cluster.port() + 13, rules, &sections);
    psql_encrypts_and_checks_who_answers(&authority, encrypted.port);
    nothing_in_the_clear_is_read_behind_a_request_for_tls(encrypted.port);
    tls_at_once_needs_alpn(encrypted.port);
    tls_at_once_is_no_way_around_a_rule(&authority, encrypted.port);
    rules_decide(&authority, encrypted.port);
    a_certificate_is_renewed_without_a_restart(&authority, &encrypted);
    assert!(encrypted.is_running());
    drop(encrypted);

    let strict = Serve::start(&cluster, cluster.port() + 13, "auth = \"trust-loopback\"", &tls("verify-full"));
    certificates_are_demanded(&authority, strict.port);
}

/// T01
fn lengths_that_lie_are_refused_at_once(port: u16) {
    for bytes in [
        &[0, 0, 0, 0][..],
        &[0, 0, 0, 3],
        &[0x7f, 0xff, 0xff, 0xff],
        &[0x80, 0, 0, 0],
        &[0, 0, 0x27, 0x15],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0xff; 64],
    ] {
        let mut stream = connect(port);
        stream.write_all(bytes).expect("it is read");
        let answer = to_the_end(&mut stream);
        // Who has only run out of time is told nothing.
        assert!(says(&answer, "C08P01"), "{bytes:?}: {}", String::from_utf8_lossy(&answer));
    }
}

/// T05
fn encryption_is_asked_for_once(port: u16) {
    for (first, second) in [(SSL, SSL), (GSS, GSS)] {
        let mut stream = connect(port);
        stream.write_all(&[first, second].concat()).expect("it is read");
        let answer = to_the_end(&mut stream);
        assert_eq!(answer.first(), Some(&b'N'));
        assert!(says(&answer, "C08P01"), "{}", String::from_utf8_lossy(&answer));
    }
    let mut stream = connect(port);
    stream.write_all(&[SSL, GSS, SSL, GSS].concat()).expect("it is read");
    let answer = to_the_end(&mut stream);
    assert!(answer.starts_with(b"NN") && says(&answer, "C08P01"));
}

/// T03
fn memory_is_not_taken_before_a_login(proxy: &Serve) {
    let before = proxy.resident_kb();
    let mut streams: Vec<TcpStream> = (0..40).map(|_| greeted(proxy.port, "app")).collect();
    for stream in &mut streams {
        stream.write_all(&[&b"p"[..], &0x4000_0000u32.to_be_bytes()].concat()).expect("it is read");
        let _ = stream.write_all(&[b'x'; 64 * 1024]);
    }
    for stream in &mut streams {
        assert!(says(&to_the_end(stream), "C08P01"), "closed without waiting for the gigabyte");
    }
    let grown = proxy.resident_kb().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} kB more");
}

/// T02
fn a_login_has_an_end(port: u16) {
    let mut silent: Vec<TcpStream> = (0..50).map(|_| connect(port)).collect();
    silent[0].write_all(&[0, 0, 0]).expect("it is read");
    silent.push(greeted(port, "app"));
    // Others get in meanwhile.
    assert_eq!(psql_says(&dsn(port, "app", "correct horse", "disable"), "SELECT 1"), "1");
    for stream in &mut silent {
        to_the_end(stream);
    }
}

/// T07, T08
fn messages_of_a_login_come_in_their_order(port: u16) {
    let initial = |mechanism: &str, length: i32, data: &[u8]| {
        let body = [mechanism.as_bytes(), &[0], &length.to_be_bytes(), data].concat();
        tagged(b'p', &body)
    };
    let nonce = format!("n,,n=,r={}", "x".repeat(5000));
    for message in [
        startup_packet(3 << 16, &[("user", "postgres"), ("database", "postgres")]),
        tagged(b'Q', b"SELECT 1\0"),
        tagged(b'p', b""),
        tagged(b'p', b"SCRAM-SHA-256"),
        initial("SCRAM-SHA-256", 1000, b"n,,n=,r=abc"),
        initial("SCRAM-SHA-256", -2, b"n,,n=,r=abc"),
        initial("SCRAM-SHA-256", -1, b""),
        initial("SCRAM-SHA-256", 0, b""),
        initial("SCRAM-SHA-256-PLUS", 33, b"p=tls-server-end-point,,n=,r=abcd"),
        initial("SCRAM-SHA-1", 11, b"n,,n=,r=abc"),
        initial("SCRAM-SHA-256", nonce.len() as i32, nonce.as_bytes()),
        initial("SCRAM-SHA-256", 12, b"n,,n=,r=a\0bc"),
    ] {
        let mut stream = greeted(port, "app");
        stream.write_all(&message).expect("it is read");
        let answer = to_the_end(&mut stream);
        assert!(says(&answer, "C08P01"), "{message:?}: {}", String::from_utf8_lossy(&answer));
    }
    // Somebody else's identity: refused as Postgres does.
    let mut stream = greeted(port, "app");
    stream.write_all(&initial("SCRAM-SHA-256", 18, b"n,a=postgres,n=,r=")).expect("it is read");
    assert!(says(&to_the_end(&mut stream), "C0A000"));
    // Behind the challenge, too, only its answer is legal; who it is was said in the first packet.
    let again = |user: &str, database: &str| startup_packet(3 << 16, &[("user", user), ("database", database)]);
    for message in [
        again("postgres", "postgres"),
        again("postgres", "elsewhere"),
        again("app", "postgres"),
        tagged(b'Q', b"SELECT 1\0"),
        tagged(b'X', b""),
        tagged(b'p', b""),
        initial("SCRAM-SHA-256", 11, b"n,,n=,r=abc"),
    ] {
        let mut stream = greeted(port, "app");
        stream.write_all(&initial("SCRAM-SHA-256", 11, b"n,,n=,r=abc")).expect("it is read");
        assert_eq!(frame_of(&mut stream)[0], b'R');
        stream.write_all(&message).expect("it is read");
        let answer = to_the_end(&mut stream);
        assert!(says(&answer, "C08P01") || message[0] == b'X', "{message:?}: {}", String::from_utf8_lossy(&answer));
        assert!(!says(&answer, "R\0\0\0\x08\0\0\0\0"), "{message:?}: it is in");
    }
    // A proof of zeros, and one that is none.
    for (proof, code) in [("A".repeat(43) + "=", "C28P01"), ("zz".to_owned(), "C08P01")] {
        let mut stream = greeted(port, "app");
        stream.write_all(&initial("SCRAM-SHA-256", 11, b"n,,n=,r=abc")).expect("it is read");
        let challenge = frame_of(&mut stream);
        let text = String::from_utf8_lossy(&challenge[9..]).into_owned();
        let nonce = text.split(',').next().expect("a nonce comes first");
        stream.write_all(&tagged(b'p', format!("c=biws,{nonce},p={proof}").as_bytes())).expect("it is read");
        let answer = to_the_end(&mut stream);
        assert!(says(&answer, code), "{}", String::from_utf8_lossy(&answer));
    }
}

/// T09, T11
fn options_are_bounded(port: u16) {
    let login =
        |extra: &str| psql_says(&format!("{} {extra}", dsn(port, "app", "correct horse", "disable")), "SELECT 1");
    for options in ["-c=", "-c", "-c \\\\", "-c no_such_setting=1"] {
        let said = login(&format!("options='{options}'"));
        assert!(said.contains("FATAL"), "{options}: {said}");
    }
    let long = login(&format!("options='-c app.long={}'", "x".repeat(9_500)));
    assert_eq!(long, "1", "nearly as long as a first packet may be");
    let many: String = (0..300).map(|n| format!("-c app.s{n}=v ")).collect();
    assert_eq!(login(&format!("options='{many}'")), "1");
    let name = "x''; CREATE TABLE stolen (); --";
    let shown = psql_says(
        &format!("{} application_name='{}'", dsn(port, "app", "correct horse", "disable"), name.replace("''", "\\'")),
        "SHOW application_name",
    );
    assert_eq!(shown, "x'; CREATE TABLE stolen (); --", "kept as it was, never run");
}

/// T12, T13
fn unknown_and_wrong_look_alike(cluster: &Cluster, port: u16) {
    let said = |user: &str, database: &str| {
        let dsn = format!("host=127.0.0.1 port={port} user={user} dbname={database} password=wrong sslmode=disable");
        psql_says(&dsn, "SELECT 1").replace(user, "USER")
    };
    let wrong = said("app", "postgres");
    assert!(wrong.contains("password authentication failed for user \"USER\""), "{wrong}");
    for (user, database) in [("nobody", "postgres"), ("app", "elsewhere"), ("late", "postgres"), ("old", "postgres")] {
        assert_eq!(said(user, database), wrong, "{user} in {database}");
    }
    let salt = |port: u16, user: &str| {
        let mut stream = greeted(port, user);
        stream.write_all(&tagged(b'p', b"SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc")).expect("it is read");
        let told = String::from_utf8_lossy(&frame_of(&mut stream)[9..]).into_owned();
        told.split(",s=").nth(1).expect("a salt").to_owned()
    };
    // The same salt each time, through another proxy and after a start, for a role that nobody has as well.
    let other = Serve::start(cluster, cluster.port() + 13, "auth = \"scram\"", "");
    for user in ["nobody", "old", "app"] {
        assert_eq!([salt(port, user), salt(port, user)], [salt(port, user), salt(other.port, user)], "{user}");
    }
    assert_ne!(salt(port, "nobody"), salt(port, "somebody"));
    assert_eq!(salt(port, "nobody").len(), salt(port, "app").len());
    cluster.psql("CREATE ROLE curious LOGIN");
    let refused = psql_error(&cluster.dsn().replace("postgres@", "curious@"), "SELECT * FROM tenantry.mock_login");
    assert!(refused.contains("42501"), "nobody is told what it is made of: {refused}");
    let right = psql_says(
        &dsn(port, "app", "correct horse", "disable").replace("dbname=postgres", "dbname=elsewhere"),
        "SELECT 1",
    );
    assert!(right.contains("database \"elsewhere\" does not exist"), "asked after the password: {right}");
}

/// T12
fn roles_are_what_the_coordinator_says(port: u16, cluster: &Cluster) {
    let login = |user: &str, password: &str| psql_says(&dsn(port, user, password, "disable"), "SELECT session_user");
    assert!(login("late", "late").contains("password authentication failed"), "its time is over");
    assert!(login("barred", "barred").contains("role \"barred\" is not permitted to log in"));
    assert_eq!(login("app", "correct horse"), "app");
    // A password that is changed is good at once, and the old one is not.
    assert_eq!(psql_says(&dsn(port, "app", "correct horse", "disable"), "ALTER ROLE app PASSWORD 'battery'"), "");
    assert_eq!(login("app", "battery"), "app");
    assert!(login("app", "correct horse").contains("password authentication failed"));
    psql_says(&dsn(port, "app", "battery", "disable"), "ALTER ROLE app PASSWORD 'correct horse'");
    // So is a role that loses its right to log in, or goes; and nobody is an admin of the proxy for having a password.
    cluster.psql("CREATE ROLE leaver LOGIN PASSWORD 'leaver'");
    assert_eq!(login("leaver", "leaver"), "leaver");
    let console = format!("{} dbname=tenantry", dsn(port, "leaver", "leaver", "disable"));
    let refused = psql_says(&console, "SHOW POOLS");
    assert!(refused.contains("permission denied for database \"tenantry\""), "{refused}");
    cluster.psql("ALTER ROLE leaver NOLOGIN");
    assert!(login("leaver", "leaver").contains("role \"leaver\" is not permitted to log in"));
    cluster.psql("DROP ROLE leaver");
    assert!(login("leaver", "leaver").contains("password authentication failed"));
    // One session and no more.
    let sleeping =
        std::thread::spawn(move || psql_says(&dsn(port, "single", "single", "disable"), "SELECT pg_sleep(3)"));
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'single' AND query LIKE '%pg_sleep%'";
    assert!(support::wait_until(Duration::from_secs(10), || support::psql(&cluster.coordinator_dsn(), busy) == "1"));
    assert!(login("single", "single").contains("too many connections for role \"single\""));
    sleeping.join().expect("it ends");
    assert!(support::wait_until(Duration::from_secs(10), || login("single", "single") == "single"));
    // A user that is given twice is the last one, as in Postgres, and must prove to be that one.
    let mut stream = connect(port);
    let twice = [("user", "app"), ("user", "nobody"), ("database", "postgres")];
    stream.write_all(&startup_packet(3 << 16, &twice)).expect("it is read");
    assert_eq!(frame_of(&mut stream)[0], b'R');
}

fn psql_encrypts_and_checks_who_answers(authority: &Authority, port: u16) {
    let ca = authority.file("ca.crt");
    for mode in ["require", "verify-ca", "verify-full"] {
        let dsn = format!("{} sslrootcert={ca} channel_binding=require", dsn(port, "app", "correct horse", mode));
        assert_eq!(psql_says(&dsn, "SELECT count(*) FROM t"), "0", "{mode}");
    }
    let shown = psql_says(&format!("{} sslrootcert={ca}", dsn(port, "app", "correct horse", "require")), "\\conninfo");
    assert!(shown.contains("TLSv1.3"), "{shown}");
    // Many rows, in many records.
    let rows = psql_says(
        &dsn(port, "app", "correct horse", "require"),
        "SELECT repeat('x', 100) FROM generate_series(1, 20000)",
    );
    assert_eq!(rows.lines().count(), 20_000);
    let cancelled = format!("{} options='-c statement_timeout=200'", dsn(port, "app", "correct horse", "require"));
    assert!(psql_says(&cancelled, "SELECT pg_sleep(10)").contains("57014"));
}

/// T04
fn nothing_in_the_clear_is_read_behind_a_request_for_tls(port: u16) {
    let mut stream = connect(port);
    let startup = startup_packet(3 << 16, &[("user", "app"), ("database", "postgres")]);
    stream.write_all(&[SSL, &startup[..], &tagged(b'Q', b"SELECT 1\0")].concat()).expect("it is read");
    let answer = to_the_end(&mut stream);
    assert!(says(&answer, "C08P01") && says(&answer, "received unencrypted data after SSL request"));
    // Half a handshake, of somebody who goes and of somebody who stays.
    for goes in [true, false] {
        let mut stream = connect(port);
        stream.write_all(SSL).expect("it is read");
        let mut yes = [0; 1];
        stream.read_exact(&mut yes).expect("an answer");
        assert_eq!(yes, *b"S");
        stream.write_all(&[0x16, 3, 1, 2, 0, 1]).expect("it is read");
        if goes {
            stream.shutdown(Shutdown::Both).expect("it is open");
        } else {
            to_the_end(&mut stream);
        }
    }
}

/// T06
fn tls_at_once_needs_alpn(port: u16) {
    let begin = |alpn: &[&str]| {
        let port = format!("127.0.0.1:{port}");
        let openssl = std::process::Command::new("openssl")
            .args(["s_client", "-connect", &port])
            .args(alpn)
            .stdin(std::process::Stdio::null())
            .output()
            .expect("openssl runs");
        format!("{}{}", String::from_utf8_lossy(&openssl.stdout), String::from_utf8_lossy(&openssl.stderr))
    };
    let with = begin(&["-alpn", "postgresql"]);
    assert!(with.contains("ALPN protocol: postgresql"), "{with}");
    let other = begin(&["-alpn", "h2"]);
    assert!(other.contains("no application protocol"), "{other}");
    let without = begin(&["-quiet"]);
    assert!(without.contains("without ALPN"), "{without}");
}

/// T06. What openssl is told by the server to whom it sends these packets within TLS, at once.
fn tls_at_once_is_no_way_around_a_rule(authority: &Authority, port: u16) {
    let told = |user: &str, certificate: Option<&str>| {
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["s_client", "-quiet", "-alpn", "postgresql", "-connect", &format!("127.0.0.1:{port}")]);
        if let Some(name) = certificate {
            let (certificate, key) = (authority.file(&format!("{name}.crt")), authority.file(&format!("{name}.key")));
            openssl.args(["-cert", &certificate, "-key", &key]);
        }
        let pipe = std::process::Stdio::piped;
        let mut openssl =
            openssl.stdin(pipe()).stdout(pipe()).stderr(std::process::Stdio::null()).spawn().expect("openssl runs");
        let startup = startup_packet(3 << 16, &[("user", user), ("database", "postgres")]);
        let mut packets = openssl.stdin.take().expect("it is piped");
        packets.write_all(&[&startup[..], &tagged(b'X', b"")].concat()).expect("it is read");
        let said = openssl.wait_with_output().expect("it ends").stdout;
        drop(packets);
        said
    };
    for certificate in [None, Some("app"), Some("twice")] {
        assert!(says(&told("postgres", certificate), "C28000"), "{certificate:?}");
    }
    assert!(says(&told("late", Some("app")), "C28000"), "a rule rejects it");
    // And who has a rule is asked for what it says.
    assert!(says(&told("app", None), "SCRAM-SHA-256-PLUS"));
}

fn rules_decide(authority: &Authority, port: u16) {
    let clear = psql_says(&dsn(port, "app", "correct horse", "disable"), "SELECT 1");
    let wanted = "no pg_hba.conf entry for host \"127.0.0.1\", user \"app\", database \"postgres\", no encryption";
    assert!(clear.contains(wanted), "{clear}");
    let rejected = psql_says(&dsn(port, "late", "late", "require"), "SELECT 1");
    assert!(rejected.contains("pg_hba.conf rejects connection for host \"127.0.0.1\", user \"late\""), "{rejected}");
    assert_eq!(psql_says(&dsn(port, "old", "old", "disable"), "SELECT current_user"), "old", "by MD5");
    assert!(psql_says(&dsn(port, "old", "new", "disable"), "SELECT 1").contains("password authentication failed"));
    // Role postgres comes by certificate, and no certificate here has its name.
    let own = |name: &str| {
        let (certificate, key) = (authority.file(&format!("{name}.crt")), authority.file(&format!("{name}.key")));
        format!("{} sslcert={certificate} sslkey={key}", dsn(port, "postgres", "x", "require"))
    };
    for name in ODD_SUBJECTS.iter().map(|(name, _)| *name).chain(["app"]) {
        let said = psql_says(&own(name), "SELECT 1");
        assert!(said.contains("certificate authentication failed for user \"postgres\""), "{name}: {said}");
    }
    let without = psql_says(&dsn(port, "postgres", "x", "require"), "SELECT 1");
    assert!(without.contains("connection requires a valid client certificate"), "{without}");
}

fn a_certificate_is_renewed_without_a_restart(authority: &Authority, proxy: &Serve) {
    let serial = || {
        let port = format!("127.0.0.1:{}", proxy.port);
        let shown = std::process::Command::new("openssl")
            .args(["s_client", "-connect", &port, "-starttls", "postgres"])
            .stdin(std::process::Stdio::null())
            .output()
            .expect("openssl runs");
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        let from = text.find("-----BEGIN").expect("a certificate is shown");
        text[from..].split("-----END").next().expect("it ends").to_owned()
    };
    let before = serial();
    authority.sign("server");
    assert_eq!(serial(), before);
    proxy.signal("HUP");
    assert!(support::wait_until(Duration::from_secs(10), || serial() != before));
    let told = |renewed: &str| {
        let is_told = || proxy.logged().lines().any(|line| line.contains("was read again") && line.contains(renewed));
        support::wait_until(Duration::from_secs(10), is_told)
    };
    assert!(told(&format!("renewed={}", authority.file("server.crt"))), "{}", proxy.logged());
    proxy.signal("HUP");
    assert!(told("renewed=nothing"), "{}", proxy.logged());
    let ca = authority.file("ca.crt");
    let dsn = format!("{} sslrootcert={ca}", dsn(proxy.port, "app", "correct horse", "verify-full"));
    assert_eq!(psql_says(&dsn, "SELECT 1"), "1");
    authority.sign("server");
    let admin = dsn.replace("dbname=postgres", "dbname=tenantry");
    let renewed = format!("NOTICE:  00000: renewed, in force now: {}", authority.file("server.crt"));
    assert!(psql_says(&admin, "RELOAD").contains(&renewed));
    assert_eq!(psql_says(&admin, "RELOAD"), "");
}

fn certificates_are_demanded(authority: &Authority, port: u16) {
    let own = |name: &str, user: &str| {
        let (certificate, key) = (authority.file(&format!("{name}.crt")), authority.file(&format!("{name}.key")));
        let ca = authority.file("ca.crt");
        format!("{} sslcert={certificate} sslkey={key} sslrootcert={ca}", dsn(port, user, "", "verify-full"))
    };
    assert_eq!(psql_says(&own("app", "app"), "SELECT current_user"), "app");
    assert!(
        psql_says(&own("nobody", "app"), "SELECT 1").contains("certificate authentication failed for user \"app\"")
    );
    let without = psql_says(&dsn(port, "app", "", "require"), "SELECT 1");
    assert!(without.contains("SSL error") || without.contains("certificate required"), "{without}");
    assert!(psql_says(&dsn(port, "app", "", "disable"), "SELECT 1").contains("no encryption"));
}

fn dsn(port: u16, user: &str, password: &str, sslmode: &str) -> String {
    format!("host=127.0.0.1 port={port} user={user} dbname=postgres password='{password}' sslmode={sslmode}")
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// A connection that has said who it is and been asked for SCRAM.
fn greeted(port: u16, user: &str) -> TcpStream {
    let mut stream = connect(port);
    stream.write_all(&startup_packet(3 << 16, &[("user", user), ("database", "postgres")])).expect("it is read");
    assert_eq!(frame_of(&mut stream)[0], b'R');
    stream
}

fn tagged(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}

fn frame_of(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).expect("a frame");
    let mut body = vec![0; u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize - 4];
    stream.read_exact(&mut body).expect("a whole frame");
    [&head[..], &body].concat()
}

/// Everything until the proxy closes. Panics when it does not.
fn to_the_end(stream: &mut TcpStream) -> Vec<u8> {
    let (start, mut all, mut part) = (Instant::now(), Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut part) {
            Ok(0) => return all,
            Ok(count) => all.extend_from_slice(&part[..count]),
            // Closed with bytes of ours unread.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return all,
            Err(error) => panic!("still open after {:?}: {error}", start.elapsed()),
        }
    }
}

fn says(answer: &[u8], text: &str) -> bool {
    answer.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Certificates whose names are not quite that of role postgres, by file.
const ODD_SUBJECTS: [(&str, &str); 5] = [
    ("twice", "/CN=postgres/CN=app"),
    ("also", "/CN=app/CN=postgres"),
    ("upper", "/CN=Postgres"),
    ("longer", "/CN=postgres "),
    ("elsewhere", "/O=postgres/OU=postgres"),
];
const SSL: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];
const GSS: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 48];
const PATIENCE: Duration = Duration::from_secs(20);
