//! The exchange of RFC 7677, round trips, and messages that must be refused.

use proptest::prelude::*;

use super::super::verifier::hash_password;
use super::*;

const PLAIN: &[u8] = MECHANISM.as_bytes();
const CLIENT_FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const SERVER_FIRST: &[u8] = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const CLIENT_FINAL: &[u8] =
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &[u8] = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn pencil() -> Verifier {
    hash_password("pencil", &BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(), 4096)
}

fn quick(password: &str) -> Verifier {
    hash_password(password, b"salt", 2)
}

fn challenged() -> ScramServer {
    let mut server = ScramServer::new("user", pencil(), None);
    assert_eq!(server.first_with_nonce(PLAIN, CLIENT_FIRST, SERVER_NONCE).unwrap(), SERVER_FIRST);
    server
}

/// Runs a whole login.
fn login(client: &mut ScramClient, server: &mut ScramServer) -> Result<(ClientKeys, ClientKeys)> {
    let server_first = server.first(client.mechanism().as_bytes(), &client.first()?)?;
    let (server_final, proved) = server.last(&client.last(&server_first)?)?;
    Ok((proved, client.verify(&server_final)?))
}

#[test]
fn the_server_answers_as_in_rfc_7677() {
    let (answer, keys) = challenged().last(CLIENT_FINAL).unwrap();
    assert_eq!(answer, SERVER_FINAL);
    assert_eq!(sha256(&keys.client_key), pencil().stored_key);
}

#[test]
fn a_login_gives_keys_that_log_in_without_the_password() {
    for password in ["secret", "", "пароль", "ﬁ\u{ad}x", "a,b=c"] {
        let mut client = ScramClient::with_password(password);
        let (proved, derived) = login(&mut client, &mut ScramServer::new("app", quick(password), None)).unwrap();
        assert_eq!(proved.client_key, derived.client_key);
        login(&mut ScramClient::with_keys(proved), &mut ScramServer::new("app", quick(password), None)).unwrap();
    }
}

#[test]
fn a_wrong_password_an_unknown_role_and_foreign_keys_fail_alike() {
    let keys = login(&mut ScramClient::with_password("a"), &mut ScramServer::new("app", quick("a"), None)).unwrap().0;
    for (mut client, verifier) in [
        (ScramClient::with_password("b"), quick("a")),
        (ScramClient::with_password("a"), Verifier::mock(&[1; 32], "app")),
        (ScramClient::with_password("a"), Verifier { is_mock: true, ..quick("a") }),
        (ScramClient::with_keys(keys), hash_password("a", b"other salt", 2)),
    ] {
        let error = login(&mut client, &mut ScramServer::new("app", verifier, None)).unwrap_err();
        assert_eq!(error.code(), SqlState::INVALID_PASSWORD);
        assert_eq!(error.message(), "password authentication failed for user \"app\"");
    }
}

#[test]
fn both_channel_binding_flags_without_binding_are_accepted() {
    let mut server = ScramServer::new("user", quick("a"), None);
    let first = server.first(PLAIN, b"y,,n=*,r=abc").unwrap();
    let nonce = String::from_utf8(first).unwrap();
    let nonce = nonce.split(',').next().unwrap().to_owned();
    let proof = BASE64_STANDARD.encode([0; 32]);
    let error = server.last(format!("c=eSws,{nonce},p={proof}").as_bytes()).unwrap_err();
    assert_eq!(error.code(), SqlState::INVALID_PASSWORD);
}

#[test]
fn malformed_client_messages_are_refused() {
    let long = format!("n,,n=,r={}", "x".repeat(NONCE_BYTES_MAX + 1));
    let firsts: &[&[u8]] = &[
        b"",
        b"n",
        b"n,",
        b"n,,",
        b"x,,n=,r=a",
        b"p=tls-server-end-point,,n=,r=a",
        b"n,,n=u",
        b"n,,r=a",
        b"n,,n=u,r=",
        b"n,,n=u,r=a b",
        b"n,,n=u,r=\xff",
        b"n,,n=u,r=a\0",
        "n,,n=u,r=é".as_bytes(),
        long.as_bytes(),
        &[b'n'; 100_000],
    ];
    for first in firsts {
        let error = ScramServer::new("user", quick("a"), None).first(PLAIN, first).unwrap_err();
        assert_eq!(error.code(), SqlState::PROTOCOL_VIOLATION, "{}", String::from_utf8_lossy(first));
    }
    for first in [&b"n,a=admin,n=u,r=a"[..], b"n,,m=x,n=u,r=a"] {
        let error = ScramServer::new("user", quick("a"), None).first(PLAIN, first).unwrap_err();
        assert_eq!(error.code(), SqlState::FEATURE_NOT_SUPPORTED);
    }
    let right = std::str::from_utf8(CLIENT_FINAL).unwrap();
    for last in [
        String::new(),
        "p=".into(),
        right.replace("biws", "eSws"),
        right.replace("r=r", "r=R"),
        right.replace("dHzb", "!!!!"),
        right.replace("dHzb", ""),
        right.replace("c=biws,", ""),
        format!("{right},x=1"),
    ] {
        assert_eq!(challenged().last(last.as_bytes()).unwrap_err().code(), SqlState::PROTOCOL_VIOLATION, "{last}");
    }
}

#[test]
fn messages_out_of_order_are_refused() {
    let mut server = ScramServer::new("user", quick("a"), None);
    assert!(server.last(CLIENT_FINAL).is_err());
    let mut server = challenged();
    assert!(server.first(PLAIN, CLIENT_FIRST).is_err());
    assert!(server.last(CLIENT_FINAL).is_err());
    let mut client = ScramClient::with_password("a");
    assert!(client.verify(SERVER_FINAL).is_err() && client.first().is_err());
}

#[test]
fn a_hostile_server_is_refused() {
    let nonce = "rOprNGfwEbeRWgbNEkqO".to_owned();
    let client = || {
        let mut client = ScramClient::new(Secret::Password("pencil".into()), nonce.clone());
        client.first().unwrap();
        client
    };
    let long = format!("r={nonce}{},s=AAAA,i=1", "x".repeat(NONCE_BYTES_MAX));
    for server_first in [
        "",
        "e=other-error",
        "m=x,r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=1",
        "r=rOprNGfwEbeRWgbNEkqO,s=AAAA,i=1",
        "r=else,s=AAAA,i=1",
        "r=rOprNGfwEbeRWgbNEkqOx,s=!,i=1",
        "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=0",
        "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=1000001",
        "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=-1",
        "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=99999999999999999999",
        &long,
    ] {
        assert!(client().last(server_first.as_bytes()).is_err(), "{server_first}");
    }
    let mut proved = client();
    proved.last(SERVER_FIRST).unwrap();
    assert_eq!(proved.verify(SERVER_FINAL).unwrap_err().detail_text(), Some("Incorrect server signature."));
}

#[test]
fn secrets_stay_out_of_debug_texts() {
    let keys = ClientKeys { client_key: [65; 32], server_key: [65; 32] };
    let text = format!("{keys:?} {:?} {:?}", ScramClient::with_keys(keys.clone()), ScramClient::with_password("hush"));
    assert!(!text.contains("65, 65") && !text.contains("hush"), "{text}");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(first in any::<Vec<u8>>(), last in any::<Vec<u8>>(), text in "[nyparvsicm=,A-Z0-9]{0,60}") {
        for bytes in [&first[..], &last, text.as_bytes()] {
            let _ = ScramServer::new("user", quick("a"), None).first(PLAIN, bytes);
            let mut server = ScramServer::new("user", quick("a"), None);
            server.first(PLAIN, CLIENT_FIRST).unwrap();
            prop_assert!(server.last(bytes).is_err());
            let mut client = ScramClient::with_password("a");
            client.first().unwrap();
            prop_assert!(client.last(bytes).is_err());
            let _ = Verifier::parse(&String::from_utf8_lossy(bytes));
        }
    }
}

#[test]
fn over_tls_a_login_is_bound_to_the_certificate() {
    let server = || ScramServer::new("app", quick("a"), Some(b"the certificate's hash".to_vec()));
    let client = || ScramClient::with_password("a");
    assert_eq!(server().mechanisms(), [MECHANISM_PLUS, MECHANISM]);
    login(&mut client().bound_to(b"the certificate's hash".to_vec()), &mut server()).unwrap();
    login(&mut client(), &mut server()).unwrap();
    // Somebody in between shows another certificate, or hides that the server can bind.
    let error = login(&mut client().bound_to(b"another hash".to_vec()), &mut server()).unwrap_err();
    assert_eq!(error.code(), SqlState::PROTOCOL_VIOLATION);
    let error = server().first(PLAIN, b"y,,n=,r=abc").unwrap_err();
    assert!(error.detail_text().unwrap().contains("thinks the server does not"));
    let unbound =
        ScramServer::new("app", quick("a"), None).first(MECHANISM_PLUS.as_bytes(), b"p=tls-server-end-point,,n=,r=abc");
    assert_eq!(unbound.unwrap_err().message(), "client selected an invalid SASL authentication mechanism");
}
