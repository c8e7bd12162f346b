//! Messages of a client, however the network cuts them.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::wire::frontend::{self, Bind, Parse, Target};

/// What a client says, as the proxy must understand it.
#[derive(Debug, Clone, PartialEq)]
enum Message {
    Query(String),
    Parse(String, String, Vec<u32>),
    Bind(String, String, Vec<Option<String>>),
    Describe(bool, String),
    Close(bool, String),
    Execute(String, u32),
    CopyData(Vec<u8>),
    CopyFail(String),
    Sync,
}

impl Message {
    fn write(&self, out: &mut BytesMut) {
        let target = |is_statement: &bool, name: &'static [u8]| match is_statement {
            true => Target::Statement(name),
            false => Target::Portal(name),
        };
        match self {
            Self::Query(sql) => frontend::query(sql, out),
            Self::Parse(name, sql, types) => frontend::parse(name.as_bytes(), sql, types, out),
            Self::Bind(portal, statement, values) => {
                let values: Vec<_> = values.iter().map(Option::as_deref).collect();
                Bind::text(&values).write(portal.as_bytes(), statement.as_bytes(), out);
            }
            Self::Describe(kind, name) => frontend::describe(target(kind, leaked(name)), out),
            Self::Close(kind, name) => frontend::close(target(kind, leaked(name)), out),
            Self::Execute(portal, limit) => frontend::execute(portal.as_bytes(), *limit, out),
            Self::CopyData(data) => frontend::copy_data(data, out),
            Self::CopyFail(reason) => frontend::copy_fail(reason, out),
            Self::Sync => frontend::sync(out),
        }
    }

    fn read(frame: &Frame) -> Result<Self> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("written as text");
        let named = |target: Target<'_>| match target {
            Target::Statement(name) => (true, text(name)),
            Target::Portal(name) => (false, text(name)),
        };
        let payload: Bytes = frame.bytes.slice(frame::HEADER_LEN..);
        Ok(match frame.tag {
            b'Q' => Self::Query(frontend::read_query(&payload)?.to_owned()),
            b'P' => {
                let parse = Parse::read(&payload)?;
                Self::Parse(text(parse.name), parse.text.to_owned(), parse.types)
            }
            b'B' => {
                let bind = Bind::read(&payload)?;
                let values = (0..bind.parameter_count()).map(|n| bind.parameter(n).map(|(_, value)| value.map(text)));
                Self::Bind(text(&bind.portal), text(&bind.statement), values.collect::<Result<_>>()?)
            }
            b'D' | b'C' => {
                let (is_statement, name) = named(Target::read(&payload)?);
                if frame.tag == b'D' { Self::Describe(is_statement, name) } else { Self::Close(is_statement, name) }
            }
            b'E' => {
                let (portal, limit) = frontend::read_execute(&payload)?;
                Self::Execute(text(portal), limit)
            }
            b'd' => Self::CopyData(payload.to_vec()),
            b'f' => Self::CopyFail(text(payload.strip_suffix(b"\0").expect("it has an end"))),
            _ => Self::Sync,
        })
    }
}

/// Lives to the end of the tests.
fn leaked(name: &str) -> &'static [u8] {
    name.to_owned().leak().as_bytes()
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    let name = || "[a-zé]{0,6}";
    let long = prop_oneof![4 => "[ -~é]{0,30}", 1 => "[x]{9000,20000}"];
    let message = prop_oneof![
        long.clone().prop_map(Message::Query),
        (name(), long.clone(), vec(any::<u32>(), 0..4)).prop_map(|(n, s, t)| Message::Parse(n, s, t)),
        (name(), name(), vec(proptest::option::of(long), 0..70)).prop_map(|(p, s, v)| Message::Bind(p, s, v)),
        (any::<bool>(), name()).prop_map(|(k, n)| Message::Describe(k, n)),
        (any::<bool>(), name()).prop_map(|(k, n)| Message::Close(k, n)),
        (name(), 0..0x7fff_ffffu32).prop_map(|(p, l)| Message::Execute(p, l)),
        vec(any::<u8>(), 0..50).prop_map(Message::CopyData),
        name().prop_map(Message::CopyFail),
        Just(Message::Sync),
    ];
    vec(message, 0..12)
}

async fn connected(limits: ClientLimits) -> (TcpStream, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    peer.set_nodelay(true).unwrap();
    let (ours, _) = listener.accept().await.unwrap();
    let traffic = Arc::new(Traffic::default());
    (peer, Client::new(ours.into(), BytesMut::new(), limits.into(), CancellationToken::new(), traffic))
}

/// What the proxy reads of bytes that come in these pieces, and whether it then ends without an error.
fn received(pieces: Vec<Vec<u8>>) -> (Vec<Frame>, bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut peer, mut client) = connected(ClientLimits::default()).await;
        let sending = async {
            for piece in pieces {
                // Whoever reads may be done with the session.
                let _ = peer.write_all(&piece).await;
                tokio::task::yield_now().await;
            }
            drop(peer);
        };
        let reading = async {
            let mut frames = Vec::new();
            loop {
                match client.next_frame().await {
                    Ok(Some(frame)) => frames.push(frame),
                    ended => return (frames, ended.is_ok()),
                }
            }
        };
        tokio::join!(sending, reading).1
    })
}

fn cut(bytes: &[u8], at: &[usize]) -> Vec<Vec<u8>> {
    let mut cuts: Vec<_> = at.iter().map(|at| at % (bytes.len() + 1)).chain([0, bytes.len()]).collect();
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn messages_are_the_same_however_they_are_cut(messages in messages(), at in vec(any::<usize>(), 0..20)) {
        let mut bytes = BytesMut::new();
        messages.iter().for_each(|message| message.write(&mut bytes));
        let (frames, is_whole) = received(cut(&bytes, &at));
        prop_assert!(is_whole);
        let read: Vec<_> = frames.iter().map(|frame| Message::read(frame).unwrap()).collect();
        prop_assert_eq!(read, messages);
    }

    #[test]
    fn an_end_within_a_message_gives_the_messages_before_it(messages in messages(), end in any::<usize>()) {
        let mut bytes = BytesMut::new();
        let mut ends = Vec::new();
        for message in &messages {
            message.write(&mut bytes);
            ends.push(bytes.len());
        }
        let end = end % (bytes.len() + 1);
        let (frames, _) = received(vec![bytes[..end].to_vec()]);
        prop_assert_eq!(frames.len(), ends.iter().filter(|at| **at <= end).count());
    }

    #[test]
    fn no_bytes_are_read_beyond_their_end(tag in prop::sample::select(b"QPBDECdf".to_vec()), payload in vec(any::<u8>(), 0..60)) {
        let bytes = [&[tag][..], &(payload.len() as u32 + 4).to_be_bytes(), &payload].concat();
        let frame = Frame { tag, bytes: bytes.into() };
        // Read or refused; of what was read every part can be asked for.
        match tag {
            b'Q' => drop(frontend::read_query(frame.payload())),
            b'P' => drop(Parse::read(frame.payload())),
            b'D' | b'C' => drop(Target::read(frame.payload())),
            b'E' => drop(frontend::read_execute(frame.payload())),
            b'B' => if let Ok(bind) = Bind::read(&frame.bytes.slice(frame::HEADER_LEN..)) {
                prop_assert!((0..bind.parameter_count()).all(|n| bind.parameter(n).is_ok()));
                drop(bind.result_formats());
            }
            _ => {}
        }
    }
}

/// Before its bytes are waited for.
#[tokio::test]
async fn a_message_counts_with_what_the_session_keeps() {
    let limits = ClientLimits { memory_bytes: 20_000, ..ClientLimits::default() };
    let (mut peer, mut client) = connected(limits).await;
    peer.write_all(&[b"Q", &10_004u32.to_be_bytes()[..], b"SELECT"].concat()).await.unwrap();
    while client.received().is_empty() {
        assert!(timer::timeout(Duration::from_millis(20), client.next_frame()).await.is_err());
    }
    assert!(client.buffered_frame_beside(9_000).unwrap().is_none());
    let refused = client.buffered_frame_beside(10_000).err().map(|error| error.code());
    assert_eq!(refused, Some(SqlState::OUT_OF_MEMORY));
}

/// Whatever it has said and heard before: ten thousand such clients are kept.
#[tokio::test]
async fn a_client_that_says_nothing_keeps_little() {
    let (mut peer, mut client) = connected(ClientLimits::default()).await;
    let mut long = BytesMut::new();
    frontend::query(&"x".repeat(100_000), &mut long);
    let sending = async { peer.write_all(&long).await.unwrap() };
    let reading = async { client.next_frame().await.unwrap().unwrap() };
    let (frame, ()) = tokio::join!(reading, sending);
    client.out().extend_from_slice(frame.payload());
    client.flush().await.unwrap();
    drop(frame);
    assert!(timer::timeout(Duration::from_millis(20), client.next_frame()).await.is_err());
    assert!(client.read.capacity() + client.out.capacity() <= KEEP_LEN, "{} kept", client.read.capacity());
}

/// What was taken back it has not heard.
#[tokio::test]
async fn a_setting_is_told_once_unless_the_answer_was_taken_back() {
    let (_peer, mut client) = connected(ClientLimits::default()).await;
    let told = |client: &mut Client, value: &str| {
        let before = client.out().len();
        client.tell_parameter("TimeZone", value);
        client.out().len() > before
    };
    let mark = client.mark();
    assert!(told(&mut client, "UTC"));
    client.note_parameter(b"TimeZone\0Asia/Tokyo\0");
    assert!(!told(&mut client, "Asia/Tokyo"));
    assert!(told(&mut client, "UTC"));
    assert!(client.rewind(mark));
    assert!(told(&mut client, "UTC"));
    assert!(!told(&mut client, "UTC"));
}
